"""What strangers wrote is inert on every page, in live parts and in files: names, errors, cards, addresses."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from starlette.requests import Request as HttpRequest

from chexmodels.bundle import find
from chexnode.audit import message, syslog
from chexnode.audit.elements import AuditSource, EventOutcome, Participant
from chexnode.audit.kept import KeptMessages
from chexnode.ledger.alarms import Condition
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.reanalysis import Request
from chexnode.node import Shadow, job_spec
from chexnode.settings.loading import load
from chexnode.spool.spool import Spool
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Analysis, DeliveryOutcome, JobSpec, Verdict
from chexnode.vocabulary.roles import Role
from chexnode.vocabulary.states import DeliveryState, InstanceState
from chexnode.web.console.images import csv_cell
from chexnode.web.console.pages import Pages
from chexnode.web.console.visitor import Visitor
from chexnode.web.dry_run import Recipient
from support.ledgers import Clock, arrival, claim, complete, opened
from support.webs import serving

#: An element that no page has; what turns the text; what would begin a header line; what a template would compute.
EVIL = "\"'><x-evil onerror=alert(1)>{{1234*5678}}\u202elive\r\nSet-Cookie: x=evil"
_TURNING = re.compile(r"[\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
SPEC = JobSpec(f"model {EVIL}", "a" * 64, "b" * 64)
LINK = "[x](javascript:alert(1)) ![x](/x.png)"
CARD = f"# A card\n\n{EVIL}\n\n| {EVIL} |\n|---|\n| a |\n\n<script>alert(1)</script>\n\n{LINK}\n"


class _Inert(HTMLParser):
    """Collects what could do something, and the words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag in ("x-evil", "iframe", "object", "style", "base"):
            self.faults.append(f"<{tag}>")
        if tag == "script" and not str(named.get("src")).startswith("/console/static/"):
            self.faults.append("an inline script")
        self.faults += [f"{tag} {name}" for name in named if name.startswith("on") or name == "style"]
        for name in ("href", "src", "action"):
            if name in named and not re.match(r"(https?:)?/|#|\?|$", str(named[name])):
                self.faults.append(f"{name}={named[name]}")
        # What a field is filled with comes back as it is; all else is shown.
        self.words += " ".join(str(value) for name, value in named.items() if name != "value")

    def handle_data(self, data: str) -> None:
        self.words += data


def inert(html: str) -> str:
    """The words of ``html``, which is proven to do nothing."""
    page = _Inert(html)
    assert page.faults == []
    assert not _TURNING.search(page.words)
    assert "7006652" not in page.words
    return page.words


def write_source(file: Path, uid: str) -> None:
    """A radiograph without pixels whose every text is evil."""
    ds = Dataset()
    ds.SpecificCharacterSet, ds.SOPClassUID, ds.SOPInstanceUID = "ISO_IR 192", "1.2.840.10008.5.1.4.1.1.1.1", uid
    ds.SeriesDescription = ds.StudyDescription = ds.ProtocolName = ds.PatientName = EVIL
    ds.Rows, ds.Columns, ds.BitsStored, ds.ImageType = 4, 4, 8, ["ORIGINAL", "<x-evil>"]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.parent.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(file, enforce_file_format=True)


def fill(ledger: Ledger, clock: Clock, spool: Spool, trial: JobSpec) -> dict[str, str]:
    """Rows in which whatever a stranger can write is evil; name -> id of a job."""
    study = {name: EVIL for name in ("patient_name", "patient_id", "accession_number", "study_description")}
    facts = {"calling_ae_title": EVIL, "study": study, "instance": {"station_name": EVIL}}
    images = [arrival(**facts) for _ in range(4)]
    write_source(spool.path(images[0].path), images[0].sop_instance_uid)
    jobs = {}
    for name, image in zip(("both", "dead", "failed", "waits"), images, strict=True):
        ledger.instances.record([image], SPEC)
        job = claim(ledger, EVIL, SPEC)
        jobs[name] = job.id
        if name in ("both", "dead"):
            complete(ledger, job, "pacs")
        elif name == "failed":
            ledger.jobs.fail(job, EVIL)
        else:
            ledger.jobs.requeue(job, EVIL, clock.now)
    sent = ledger.deliveries.claim("pacs", 10)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.DEAD, EVIL) for one in sent])
    ledger.deliveries.destination_failed("pacs", EVIL, clock.now + timedelta(minutes=5))
    both = Filter(image=images[0].sop_instance_uid)
    ledger.reanalyses.request(Request(both, Purpose.SHADOW, [trial], False, 0, False))
    tried = claim(ledger, EVIL, trial)
    ledger.jobs.complete(tried, Analysis(0.1, False, 0, ()), [], [], {})
    turned = Verdict(InstanceState.NOT_ANALYSED, Reason.LATERAL_VIEW, EVIL)
    ledger.instances.record([arrival(verdict=turned, **facts)], SPEC)
    ledger.alarms.observe([Condition("station", EVIL, "warning", EVIL)])
    return jobs


@dataclass
class Site:
    """A console over such rows, asked by an administrator."""

    client: httpx.Client
    jobs: dict[str, str]

    def path(self, path: str) -> str:
        """With the ids of the jobs in it."""
        return path.format_map(self.jobs)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hostile")
    bundle = folder / "trial"
    shutil.copytree(find("phantom64"), bundle)
    manifest = json.loads((bundle / "model.json").read_text())
    manifest |= {"intended_use": EVIL, "licence": EVIL, "classes": [EVIL], "training_data": EVIL}
    manifest["operating_points"][EVIL] = manifest["operating_points"]["triage"]
    (bundle / "model.json").write_text(json.dumps(manifest))
    (bundle / "card.md").write_text(CARD)
    config = folder / "chexnode.toml"
    config.write_text(
        f"""[node]
data_dir = "{folder}/var"
[audit]
url = "udp://127.0.0.1:9"
[alarms]
email_from = {json.dumps(EVIL)}
[[destination]]
name = "pacs"
kind = "dicom"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
[[model]]
name = "main"
bundle = "phantom64"
[[model]]
name = "trial"
bundle = {json.dumps(str(bundle))}
mode = "shadow"
"""
    )
    settings = load(config)[0]
    shadows = tuple(Shadow(one, job_spec(settings, one)) for one in settings.shadow)
    clock = Clock()
    who = Participant(EVIL, name=EVIL, host="10.0.0.7")
    with (
        opened(settings.database.url, clock) as ledger,
        serving(settings, ledger, shadows=shadows, spec=SPEC) as client,
    ):
        kept = KeptMessages(settings.node.data_dir)
        login = message.login(AuditSource("X@host"), clock.now, who, Participant("1", "X"), EventOutcome.SUCCESS)
        kept.add([syslog.encode(login, "host", "ChexNode", 1)], clock.now)
        jobs = fill(ledger, clock, Spool(settings.node.data_dir), shadows[0].spec)
        client.headers["accept"] = "text/html"
        yield Site(client, jobs)


#: Page -> whether what is evil is to be seen on it.
PAGES = {
    "/console": True,
    "/console/images": True,
    "/console/images?q=%3Cx-evil%20onerror=alert(1)%3E": True,
    "/console/images?caller=%22%3E%3Cx-evil%3E&station=%3Cx-evil%3E&model=%27%3E%3Cx-evil%3E&score=0": True,
    "/console/images/{both}": True,
    "/console/images/{dead}": True,
    "/console/images/{failed}": True,
    "/console/images/{waits}": True,
    "/console/images/{both}/erase": True,
    "/console/images/{both}/erase?whose=patient": True,
    "/console/deliveries": True,
    "/console/queue": True,
    "/console/try": False,
    "/console/node": False,
    "/console/node/models/main": False,
    "/console/node/models/trial": True,
    "/console/node/compare?a=main&b=trial": True,
    "/console/node/drift": True,
    "/console/node/drift?of=%22%3E%3Cx-evil%3E": True,
    "/console/node/conformance": False,
    "/console/node/settings": True,
    "/console/node/audit?q=evil&since=2030-01-01": True,
}
#: Addresses of which nothing comes, and what is said of them.
TURNED = {
    "/console/images?since=%3Cx-evil%3E": 400,
    "/console/images?state=%3Cx-evil%3E": 400,
    "/console/images?after=%3Cx-evil%3E~a~b": 400,
    "/console/images/%3Cx-evil%3E": 404,
    "/console/node/models/%3Cx-evil%3E": 404,
    "/console/node/compare?a=%3Cx-evil%3E&b=main": 400,
    "/console/node/conformance?section=%3Cx-evil%3E": 404,
    "/console/node/audit?since=%3Cx-evil%3E": 400,
    "/console/images?q=%0d%0aSet-Cookie:%20x=evil": 400,
}


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("language", ["en", "de"])
def test_a_page_shows_it_and_it_does_nothing(site: Site, path: str, language: str) -> None:
    page = site.client.get(site.path(path), headers={"accept-language": language})
    assert page.status_code == 200
    assert "set-cookie" not in page.headers
    assert "unsafe" not in page.headers["content-security-policy"]
    assert ("x-evil" in inert(page.text)) is PAGES[path]


@pytest.mark.parametrize("path", TURNED)
def test_an_address_that_is_turned_away(site: Site, path: str) -> None:
    page = site.client.get(path)
    assert (page.status_code, "set-cookie" in page.headers) == (TURNED[path], False)
    if page.headers["content-type"].startswith("text/html"):
        inert(page.text)
    else:
        assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("part", ["overview", "images", "queue", "deliveries"])
def test_a_live_part(site: Site, part: str) -> None:
    with site.client.stream("GET", f"/console/live/{part}", headers={"accept": "text/event-stream"}) as stream:
        line = next(line for line in stream.iter_lines() if line.startswith("data: "))
    assert "x-evil" in inert(json.loads(line.removeprefix("data: ")))


def test_a_form_to_sign_in_that_is_to_lead_elsewhere() -> None:
    request = HttpRequest({"type": "http", "path": "/console/sign-in", "headers": [], "root_path": ""})
    values = {"csrf": "0", "to": EVIL, "wrong": "", "has_users": True, "provider": EVIL}
    assert "x-evil" in inert(Pages().html(request, None, "sign-in.html", **values))


def test_a_file_that_is_tried() -> None:
    request = HttpRequest({"type": "http", "path": "/console/try", "headers": [], "root_path": ""})
    region = {"box": [1, 2, 3, EVIL], "peak": 0.5}
    report = {"state": "DONE", "reason": None, "error": EVIL, "notes": [EVIL], "abnormal": True, "score": 0.5}
    report |= {"regions": [region], "model": EVIL, "seconds": 1.0}
    for state, reason in (("DONE", None), ("REFUSED", EVIL)):
        values = {"report": report | {"state": state, "reason": reason}, "recipients": [Recipient(EVIL, (EVIL,))]}
        visitor = Visitor("", Role.ADMIN, "0")
        assert "x-evil" in inert(Pages().html(request, visitor, "_try.html", **values))


def test_a_file_for_spreadsheets_holds_no_formula(site: Site) -> None:
    answer = site.client.get("/console/images.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="images.csv"'
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert len(rows) == 1 + 5
    assert {len(row) for row in rows} == {len(rows[0])}, "no line end of a name ends a row"
    assert not _TURNING.search(answer.text.removeprefix("\ufeff"))
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"):
        assert csv_cell(text).startswith(("'", "\\u00")), text
    assert (csv_cell("Doe^Jane"), csv_cell(-1.5), csv_cell(None)) == ("Doe^Jane", "-1.5", "")


@pytest.mark.parametrize(
    "path", ["/api/jobs", "/api/jobs/{both}", "/api/deliveries", "/api/events", "/api/drift/daily"]
)
def test_the_interface_for_programs_is_no_page(site: Site, path: str) -> None:
    answer = site.client.get(site.path(path))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x-evil" in answer.text
