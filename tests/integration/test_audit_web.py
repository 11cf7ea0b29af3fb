"""The audit trail of the web role, at a real collector: who searched, stored and retrieved, and who was turned away."""

from __future__ import annotations

import socket
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from chexnode.ledger.ledger import Ledger
from chexnode.settings.audit import AuditSettings
from chexnode.vocabulary.scopes import TokenScope
from support.collectors import Collector, Told
from support.dicomweb import DICOM, Service, part10_of, path_of, serving
from support.radiographs import radiograph
from support.receivers import a_settings
from support.servers import LOOPBACK, wait_for

TRANSFERRED, ACCESSED, QUERY = "DICOM Instances Transferred", "DICOM Instances Accessed", "Query"
LOGIN, FORBIDDEN = "User Authentication/Login", "Security Alert/Use of Restricted Function"
FILES = f'multipart/related; type="{DICOM}"; transfer-syntax=*'


@pytest.fixture
def log() -> Iterator[Collector]:
    with Collector("tcp") as one:
        yield one


@contextmanager
def audited(folder: Path, log: Collector) -> Iterator[Service]:
    with serving(a_settings(folder, audit=AuditSettings(url=log.url))) as service:
        yield service


def image(study: str = "1.2.3", **more: str) -> Dataset:
    ds = radiograph(SOPInstanceUID=generate_uid())
    ds.StudyInstanceUID, ds.PatientID, ds.PatientName, ds.AccessionNumber = study, "PID-7", "Doe^Jane", "ACC-1"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def token(ledger: Ledger, name: str, *scopes: TokenScope) -> dict[str, str]:
    return {"Authorization": f"Bearer {ledger.tokens.add(name, list(scopes))[1]}"}


def who(one: Told) -> list[tuple[str | None, str | None, str | None]]:
    """(user, name, address) of each participant."""
    found = one.root.findall("ActiveParticipant")
    return [(p.get("UserID"), p.get("UserName"), p.get("NetworkAccessPointID")) for p in found]


def outcome(one: Told) -> str:
    return str(one.root.find("EventIdentification").get("EventOutcomeIndicator"))


def test_what_a_user_stores_and_retrieves_is_told_once_a_request(tmp_path: Path, log: Collector) -> None:
    first, second, other = image(), image(), image("1.2.4", PatientID="PID-8")
    with audited(tmp_path, log) as service:
        mine = token(service.ledger, "modality-7", TokenScope.STORE)
        yours = token(service.ledger, "viewer", TokenScope.READ)
        answer = service.store(*(part10_of(ds) for ds in (first, second, other)), **mine)
        assert answer.status_code == 200, answer.text
        one, two = log.wait_for(TRANSFERRED, 2)
        assert who(one)[0] == ("modality-7", "modality-7", LOOPBACK)
        assert (one.action, one.objects, one.counts) == ("C", ["1.2.3", "PID-7"], {first.SOPClassUID: 2})
        assert (two.objects, two.counts) == (["1.2.4", "PID-8"], {first.SOPClassUID: 1})

        service.store(part10_of(first), **mine)
        again = log.wait_for(TRANSFERRED, 3)[2]
        assert (again.action, again.counts) == ("R", {first.SOPClassUID: 1}), "it was there before"

        answer = service.client.get("/studies/1.2.3", headers={"Accept": FILES} | yours)
        assert answer.status_code == 200
        sent = log.wait_for(TRANSFERRED, 4)[3]
        assert sent.users[1] == "viewer"
        assert (sent.action, outcome(sent)) == ("R", "0")
        assert (sent.objects, sent.counts) == (["1.2.3", "PID-7"], {first.SOPClassUID: 2})
        assert [a.get("Number") for a in sent.root.iter("Accession")] == ["ACC-1"]
        roles = [code.get("csd-code") for code in sent.root.findall("ActiveParticipant/RoleIDCode")]
        assert roles == ["110153", "110152"], "we send, the user gets"
        assert [p.get("UserIsRequestor") for p in sent.root.findall("ActiveParticipant")] == ["false", "true"]
    assert log.events().count(TRANSFERRED) == 4


@pytest.mark.parametrize(
    ("below", "accept"),
    [("/metadata", "application/dicom+json"), ("/frames/1", "*/*"), ("/rendered", "image/png"), ("/thumbnail", "*/*")],
)
def test_what_a_user_sees_of_instances_is_told(tmp_path: Path, log: Collector, below: str, accept: str) -> None:
    ds = image()
    with audited(tmp_path, log) as service:
        service.store(part10_of(ds))
        assert service.get(path_of(ds) + below, accept).status_code == 200
        (one,) = log.wait_for(ACCESSED)
    assert who(one)[0] == (LOOPBACK, None, LOOPBACK), "nobody needs a token here, and so nobody has a name"
    assert (one.action, one.objects, one.counts) == ("R", ["1.2.3", "PID-7"], {ds.SOPClassUID: 1})


def test_a_single_file_is_handed_over_too_and_nothing_is_told_of_what_was_not(tmp_path: Path, log: Collector) -> None:
    ds = image()
    with audited(tmp_path, log) as service:
        service.store(part10_of(ds))
        log.wait_for(TRANSFERRED)
        assert service.get("/studies/1.2.999").status_code == 404
        assert service.get(path_of(ds), "text/html").status_code == 406
        got = service.get(path_of(ds), f"{DICOM}; transfer-syntax=*")
        assert got.status_code == 200
        known = {"Accept": f"{DICOM}; transfer-syntax=*", "If-None-Match": got.headers["etag"]}
        assert service.client.get(path_of(ds), headers=known).status_code == 304
        sent = log.wait_for(TRANSFERRED, 2)[1]
    assert sent.counts == {ds.SOPClassUID: 1}
    assert log.events().count(TRANSFERRED) == 2
    assert ACCESSED not in log.events()


def test_a_retrieval_that_is_broken_off_is_told_as_such(tmp_path: Path, log: Collector) -> None:
    ds = image()
    ds.Rows = ds.Columns = 4096
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelData = bytes(4096 * 4096 * 2)
    with audited(tmp_path, log) as service:
        assert service.store(part10_of(ds)).status_code == 200
        with socket.create_connection((LOOPBACK, service.client.base_url.port or 0), timeout=10) as caller:
            caller.sendall(f"GET /dicom-web{path_of(ds)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert caller.recv(1000).startswith(b"HTTP/1.1 200")
            assert caller.recv(1000), "some of the file"
        broken = log.wait_for(TRANSFERRED, 2)[1]
    assert outcome(broken) == "4"
    assert broken.counts == {ds.SOPClassUID: 1}


def test_a_search_is_told_with_its_query_as_it_came(tmp_path: Path, log: Collector) -> None:
    with audited(tmp_path, log) as service:
        mine = token(service.ledger, "viewer", TokenScope.READ)
        assert service.client.get("/studies?PatientName=M%C3%BCller*&limit=5", headers=mine).json() == []
        assert service.client.get("/studies/1.2.3/series", headers=mine).json() == []
        assert service.client.get("/instances?limit=x", headers=mine).status_code == 400
        searches = {one.objects[0]: one for one in log.wait_for(QUERY, 3)}  # in whatever order they were sent
    first = searches["/dicom-web/studies"]
    assert who(first)[0] == ("viewer", "viewer", LOOPBACK)
    assert b64decode(first.root.findtext(".//ParticipantObjectQuery")) == b"PatientName=M%C3%BCller*&limit=5"
    assert {path: outcome(one) for path, one in searches.items()} == {
        "/dicom-web/studies": "0",
        "/dicom-web/studies/1.2.3/series": "0",
        "/dicom-web/instances": "4",
    }


def test_head_tells_of_a_search_and_of_no_instances(tmp_path: Path, log: Collector) -> None:
    ds = image()
    with audited(tmp_path, log) as service:
        service.store(part10_of(ds))
        assert service.client.head("/studies").status_code == 200
        assert service.client.head(path_of(ds), headers={"Accept": DICOM}).status_code == 200
        assert service.client.head(f"{path_of(ds)}/metadata").status_code == 200
        assert service.get(f"{path_of(ds)}/metadata").status_code == 200
        (search,) = log.wait_for(QUERY)
        log.wait_for(ACCESSED)
    assert outcome(search) == "0"
    assert (log.events().count(ACCESSED), log.events().count(TRANSFERRED)) == (1, 1)


def test_who_signs_in_to_the_viewer_is_told_and_who_does_not(tmp_path: Path, log: Collector) -> None:
    with audited(tmp_path, log) as service:
        url = service.url.replace("/dicom-web", "/viewer/")
        assert service.client.post(url, data={"token": "none is needed"}).status_code == 303
        secret = service.ledger.tokens.add("radiologist", [TokenScope.READ])[1]
        more = service.ledger.tokens.add("root", [TokenScope.ADMIN])[1]
        assert service.client.post(url, data={"token": "guess"}).status_code == 401
        assert service.client.post(url, data={"token": secret}).status_code == 303
        assert service.client.post(url, data={"token": more}).status_code == 403
        failed, done = log.wait_for(LOGIN, 2)
        (forbidden,) = log.wait_for(FORBIDDEN)
        assert service.client.get("/studies").json() == [], "by the cookie, which is no second login"
        log.wait_for(QUERY)
    assert (who(failed)[0], outcome(failed)) == ((LOOPBACK, None, LOOPBACK), "4")
    assert (who(done)[0], outcome(done)) == (("radiologist", "radiologist", LOOPBACK), "0")
    assert [p.get("UserIsRequestor") for p in done.root.findall("ActiveParticipant")] == ["true", "false"]
    assert done.root.find("EventIdentification/EventOutcomeDescription") is None
    assert outcome(forbidden) == "4"
    assert log.events().count(LOGIN) == 2
    assert not any(one in raw.decode() for raw in log.raw for one in (secret, more, "guess"))


def test_users_who_are_turned_away_are_told_of_at_a_bounded_rate(tmp_path: Path, log: Collector) -> None:
    with audited(tmp_path, log) as service:
        storing = token(service.ledger, "modality-7", TokenScope.STORE)
        for _ in range(5):
            assert service.client.get("/studies").status_code == 401
            assert service.client.get("/studies", headers={"Authorization": "Bearer guess"}).status_code == 401
            assert service.client.get("/studies", headers=storing).status_code == 403
        missing, guessed = log.wait_for(LOGIN, 2)
        (forbidden,) = log.wait_for(FORBIDDEN)
        assert who(missing)[0] == who(guessed)[0] == (LOOPBACK, None, LOOPBACK)
        assert "token is needed" in missing.root.findtext("EventIdentification/EventOutcomeDescription")
        assert "unknown" in guessed.root.findtext("EventIdentification/EventOutcomeDescription")
        assert outcome(missing) == outcome(forbidden) == "4"
        assert who(forbidden)[1] == ("modality-7", "modality-7", LOOPBACK)
        assert not any("guess" in raw.decode() for raw in log.raw), "what a secret may be is told to nobody"
    wait_for(lambda: log.events().count(LOGIN) == 4 and log.events().count(FORBIDDEN) == 2, "the rest, as one each")
    assert QUERY not in log.events()
