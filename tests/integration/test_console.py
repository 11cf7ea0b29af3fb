"""The console over HTTP: who may see and do what, and what a hostile name does to a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from chexnode.audit import message, syslog
from chexnode.audit.elements import AuditSource, EventOutcome, Participant
from chexnode.audit.kept import KeptMessages
from chexnode.cli.commands import app, exit_code
from chexnode.ledger.alarms import Condition
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import jobs
from chexnode.node import Shadow, job_spec
from chexnode.settings.loading import load
from chexnode.spool.spool import Spool
from chexnode.vocabulary.errors import NodeError
from chexnode.vocabulary.records import DeliveryOutcome
from chexnode.vocabulary.roles import Role
from chexnode.vocabulary.states import DeliveryState
from support.datasets import dicom
from support.ledgers import NOT_ANALYSED, Clock, arrival, claim, complete, node_on, opened, record
from support.servers import wait_for
from support.webs import serving

PASSWORD = "a password that is long"
HOSTILE = "<script>alert(1)</script>^\u202eevil\r\nSet-Cookie: a=b"


@dataclass
class Site:
    """A web role that serves, with its ledger."""

    config: Path
    ledger: Ledger
    clock: Clock
    url: str


@contextmanager
def site(folder: Path, more: str = "") -> Iterator[Site]:
    config, clock = folder / "chexnode.toml", Clock()
    config.write_text(f'[node]\ndata_dir = "{folder}/var"\n[disk]\nwatermark = 1.0\nreserve_gb = 0\n{more}')
    settings = load(config)[0]
    shadows = tuple(Shadow(one, job_spec(settings, one)) for one in settings.shadow)
    with opened(settings.database.url, clock) as ledger, serving(settings, ledger, shadows=shadows) as client:
        yield Site(config, ledger, clock, str(client.base_url))


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Where nobody needs to say who they are."""
    with site(tmp_path_factory.mktemp("open")) as made:
        yield made


@pytest.fixture(scope="module")
def closed_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With one user of each role."""
    with site(tmp_path_factory.mktemp("closed")) as made:
        for name, role in (("vera", Role.VIEWER), ("otto", Role.OPERATOR), ("anna", Role.ADMIN)):
            made.ledger.users.add(name, role, PASSWORD)
        yield made


def browser(site: Site) -> httpx.Client:
    return httpx.Client(base_url=site.url, headers={"accept": "text/html"}, timeout=30)


@pytest.fixture
def client(open_site: Site) -> Iterator[httpx.Client]:
    with browser(open_site) as client:
        yield client


@pytest.fixture
def guest(closed_site: Site) -> Iterator[httpx.Client]:
    """Somebody who has not signed in yet."""
    with browser(closed_site) as client:
        yield client


def csrf(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', page.text)
    assert found, page.text
    return found[1]


def shown(client: httpx.Client, text: str) -> str:
    """The overview, if it says ``text`` by now."""
    page = client.get("/console").text
    return page if text in page else ""


def sign_in(client: httpx.Client, name: str, password: str = PASSWORD, to: str = "") -> httpx.Response:
    fields = {"csrf": csrf(client.get("/console/sign-in")), "name": name, "password": password, "to": to}
    return client.post("/console/sign-in", data=fields)


def test_the_way_in_where_nobody_needs_to_say_who_they_are(client: httpx.Client) -> None:
    assert client.get("/").headers["location"] == "/console"
    page = client.get("/console")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style", page.text)
    assert len(page.content) < 100_000


def test_a_page_is_in_the_browsers_language(client: httpx.Client) -> None:
    assert "Übersicht" in client.get("/console", headers={"accept-language": "de-DE,de;q=0.9"}).text
    assert "Overview" in client.get("/console", headers={"accept-language": "fr"}).text


def test_live_parts_follow_the_ledger(client: httpx.Client, open_site: Site) -> None:
    with client.stream("GET", "/console/live/overview") as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        assert "MODALITY" not in next(lines)
        record(open_site.ledger)
        assert "MODALITY" in next(lines)


def test_what_is_wrong_and_who_works_is_on_the_overview(tmp_path: Path) -> None:
    with site(tmp_path) as made, browser(made) as visitor:
        settings = load(made.config)[0]
        page = visitor.get("/console").text
        assert ('id="alarms"' in page, "cuda:0" in page) == (False, False)
        made.ledger.alarms.observe([Condition("queue", "", "warning", "The oldest image has waited 20 minutes.")])
        node_on(made.ledger, settings, owner="gpu7:123:abc").report_worker("cuda:0")
        record(made.ledger)
        job = claim(made.ledger)
        complete(made.ledger, job)
        with made.ledger.database.write() as conn:
            conn.execute(update(jobs).values(inference_seconds=0.04))
        page = wait_for(lambda: shown(visitor, "cuda:0"), "the worker to be shown")
        assert "The oldest image has waited 20 minutes." in page
        assert "gpu7:123" in page
        assert "25.0 images a second" in page
        made.clock.forward(60)
        assert node_on(made.ledger, settings).workers() == [], "it has ended"
        assert [one["rule"] for one in visitor.get("/api/alarms").json()] == ["queue"]


def test_hostile_text_is_inert(client: httpx.Client, open_site: Site) -> None:
    record(open_site.ledger, arrival(calling_ae_title="<img src=x>", instance={"station_name": HOSTILE}))
    page = wait_for(lambda: shown(client, "img src=x"), "the image to be shown")
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "\\u202e" in page


def test_users_close_the_console_and_all_else(guest: httpx.Client, closed_site: Site) -> None:
    assert guest.get("/console/live/overview", headers={"accept": "text/event-stream"}).status_code == 401
    assert guest.get("/api/jobs").status_code == 401
    turned = guest.get("/console?x=1")
    assert (turned.status_code, turned.headers["location"]) == (303, "/console/sign-in?to=/console%3Fx%3D1")
    wrong = sign_in(guest, "anna", "not the password")
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    right = sign_in(guest, "anna", to="/console/queue")
    assert (right.status_code, right.headers["location"]) == (303, "/console/queue")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "anna" in guest.get("/console").text
    assert guest.get("/api/jobs").status_code == 200


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/console/../x\r\nA: b", "/api/jobs"])
def test_nobody_is_sent_elsewhere_after_signing_in(guest: httpx.Client, closed_site: Site, to: str) -> None:
    assert sign_in(guest, "anna", to=to).headers["location"] == "/console"


def test_a_session_ends(guest: httpx.Client, closed_site: Site) -> None:
    sign_in(guest, "anna")
    closed_site.clock.forward(59 * 60)
    assert guest.get("/console").status_code == 200
    closed_site.clock.forward(61 * 60)
    assert guest.get("/console").status_code == 303, "nothing was asked for an hour"
    sign_in(guest, "anna")
    page = guest.get("/console")
    assert guest.post("/console/sign-out", data={"csrf": "0" * 64}).status_code == 403
    guest.post("/console/sign-out", data={"csrf": csrf(page)})
    assert guest.get("/console").status_code == 303
    sign_in(guest, "anna")
    closed_site.ledger.users.change("anna", role=Role.ADMIN)
    assert guest.get("/console").status_code == 303, "another role ends the session"


def test_a_live_page_that_is_only_left_open_keeps_no_session_alive(closed_site: Site) -> None:
    users = closed_site.ledger.users
    secret = users.open_session(users.list()[0])
    for _ in range(3):
        closed_site.clock.forward(25 * 60)
        asked = users.of_session(secret, is_active=False)
    assert asked is None


def test_a_viewer_reads_no_patient_data_by_other_ways(guest: httpx.Client, closed_site: Site) -> None:
    sign_in(guest, "vera")
    assert guest.get("/console").status_code == 200
    assert guest.get("/dicom-web/studies").status_code == 403
    assert guest.get("/api/jobs").status_code == 403


def test_a_session_of_the_console_changes_nothing_elsewhere(guest: httpx.Client, closed_site: Site) -> None:
    sign_in(guest, "anna")
    assert guest.post("/dicom-web/studies", content=b"", headers={"content-type": "application/dicom"}).status_code in (
        401,
        405,
    )


def test_a_form_must_come_from_a_page_of_ours(guest: httpx.Client, closed_site: Site) -> None:
    fields = {"csrf": csrf(guest.get("/console/sign-in")), "name": "anna", "password": PASSWORD}
    assert guest.post("/console/sign-in", data=fields | {"csrf": ""}).status_code == 403
    assert guest.post("/console/sign-in", data=fields, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert guest.post("/console/sign-in", json=fields).status_code == 415


def test_guessing_is_slowed_down(guest: httpx.Client, closed_site: Site) -> None:
    codes = [sign_in(guest, "anna", f"guess number {n}").status_code for n in range(6)]
    assert codes == [401] * 5 + [429]
    late = sign_in(guest, "anna")
    assert late.status_code == 429, "the right password is one more guess"
    assert int(late.headers["retry-after"]) > 200


def test_users_by_command(open_site: Site) -> None:
    def users(*words: str, password: str = "") -> int:
        run = CliRunner().invoke(app, ["--config", str(open_site.config), "users", *words], password)
        return exit_code(run.exception) if isinstance(run.exception, NodeError) else run.exit_code

    known = open_site.ledger.users
    assert users("add", "anna", "--role", "admin", password="short\n") == 2
    assert users("add", "anna", "--role", "admin", password=f"{PASSWORD}\n") == 0
    assert known.recognise("anna", PASSWORD) == known.list()[0]
    assert users("add", "anna", "--role", "viewer", password=f"{PASSWORD}\n") == 2, "the name is taken"
    assert users("change", "anna", "--role", "viewer") == 0
    assert [user.role for user in known.list()] == [Role.VIEWER]
    assert users("remove", "anna") == 0
    assert users("remove", "anna") == 2


def test_an_operator_pauses_and_resumes_a_destination(tmp_path: Path) -> None:
    pacs = '[[destination]]\nname = "pacs"\nkind = "dicom"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
    with site(tmp_path, pacs) as made:
        for name, role in (("vera", Role.VIEWER), ("otto", Role.OPERATOR)):
            made.ledger.users.add(name, role, PASSWORD)
        with browser(made) as viewer, browser(made) as operator:
            sign_in(viewer, "vera")
            sign_in(operator, "otto")
            fields = {"csrf": csrf(operator.get("/console/deliveries")), "destination": "pacs"}
            assert viewer.post("/console/destinations/pause", data=fields).status_code == 403
            assert "destinations/pause" not in viewer.get("/console/deliveries").text
            for act, other, paused in (("pause", "resume", True), ("resume", "pause", False)):
                assert operator.post(f"/console/destinations/{act}", data=fields).status_code == 303
                assert f"destinations/{other}" in operator.get("/console/deliveries").text
                (view,) = made.ledger.overviews.destinations(["pacs"])
                assert (view.paused_at is not None) is paused
            for to, led in (("/console", "/console"), ("//evil.example", "/console")):
                there = operator.post("/console/destinations/resume", data=fields | {"to": to})
                assert (there.status_code, there.headers["location"]) == (303, led)
            assert "destinations/pause" in operator.get("/console").text
            assert "destinations/pause" not in viewer.get("/console").text
            assert operator.post("/console/destinations/pause", data=fields | {"destination": "x"}).status_code == 404
            assert operator.post("/console/destinations/erase", data=fields).status_code == 404


PAGES_OF_THE_NODE = {
    "": Role.VIEWER,
    "/models/main": Role.VIEWER,
    "/compare": Role.VIEWER,
    "/drift": Role.VIEWER,
    "/conformance": Role.VIEWER,
    "/conformance?section=6.1.4": Role.VIEWER,
    "/settings": Role.ADMIN,
    "/audit": Role.ADMIN,
}


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a model on trial, secrets in its settings, kept audit messages and a user of each role."""
    more = """
[audit]
url = "udp://127.0.0.1:9"
[alarms]
webhook = "https://chat.example/hook"
webhook_secret = "do-not-show-this"
[database]
url = "URL"
[[model]]
name = "main"
bundle = "phantom64"
[[model]]
name = "other"
bundle = "cml"
mode = "shadow"
"""
    folder = tmp_path_factory.mktemp("two")
    with site(folder, more.replace("URL", f"sqlite:///{folder}/var/chexnode.db")) as made:
        for name, role in (("vera", Role.VIEWER), ("otto", Role.OPERATOR), ("anna", Role.ADMIN)):
            made.ledger.users.add(name, role, PASSWORD)
        yield made


def test_the_pages_of_the_node_are_for_those_who_may(two_models: Site) -> None:
    for name, role in (("vera", Role.VIEWER), ("otto", Role.OPERATOR), ("anna", Role.ADMIN)):
        with browser(two_models) as visitor:
            sign_in(visitor, name)
            for path, needed in PAGES_OF_THE_NODE.items():
                for language in ("en", "de"):
                    page = visitor.get(f"/console/node{path}", headers={"accept-language": language})
                    assert page.status_code == (200 if role.includes(needed) else 403), (name, path)
                    assert len(page.content) < 100_000
                    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style", page.text)
                    assert '/console/node/audit"' in page.text or role is not Role.ADMIN


def test_settings_are_shown_with_their_sources_and_without_secrets(two_models: Site) -> None:
    with browser(two_models) as visitor:
        sign_in(visitor, "anna")
        page = visitor.get("/console/node/settings").text
    assert "do-not-show-this" not in page
    assert str(two_models.config) in page
    rows = {key: rest for key, rest in re.findall(r"<code>(\w+(?:\[\d\])?\.\w+)</code></th>(.*?)</tr>", page)}
    assert str(two_models.config) in rows["audit.url"]
    assert "default" in rows["audit.keep_days"]
    assert "***" in rows["alarms.webhook_secret"]


def test_two_models_are_compared(two_models: Site) -> None:
    with browser(two_models) as visitor:
        sign_in(visitor, "vera")
        assert "other (cml" in visitor.get("/console/node/compare?a=main&b=other").text
        assert visitor.get("/console/node/compare?a=main&b=none").status_code == 400
        assert visitor.get("/console/node/compare?a=main&b=other&since=soon").status_code == 400
        assert visitor.get("/console/node/models/none").status_code == 404
        assert visitor.get("/console/node/conformance?section=99").status_code == 404


def test_the_audit_trail_is_searched(two_models: Site) -> None:
    now = two_models.clock()
    kept = KeptMessages(load(two_models.config)[0].node.data_dir)
    who = Participant("<b>eve</b>", name="<b>eve</b>", host="10.0.0.7")
    for outcome in (EventOutcome.SUCCESS, EventOutcome.MINOR_FAILURE):
        one = message.login(AuditSource("X@host"), now, who, Participant("1", "X"), outcome)
        kept.add([syslog.encode(one, "host", "ChexNode", 1)], now)
    with browser(two_models) as visitor:
        sign_in(visitor, "anna")
        page = visitor.get(f"/console/node/audit?q=eve&since={now:%Y-%m-%d}").text
        assert page.count("User Authentication: Login") == 2
        assert "<b>eve" not in page
        assert "User Authentication" not in visitor.get("/console/node/audit?q=nobody").text
        assert visitor.get("/console/node/audit?since=x").status_code == 400


def test_days_of_images_are_drawn(tmp_path: Path) -> None:
    with site(tmp_path) as made, browser(made) as visitor:
        for _ in range(2):
            record(made.ledger)
            complete(made.ledger, claim(made.ledger))
            made.clock.forward(24 * 3600)
        page = visitor.get("/console/node/drift").text
        assert page.count("<polyline") == 1, "the share that is abnormal; nothing else was measured"
        assert page.count('<circle class="dot-other"') == 2
        assert "dot-other" not in visitor.get("/console/node/drift?of=nowhere|nobody").text


def test_a_viewer_learns_of_no_patient_anywhere(two_models: Site) -> None:
    secret = "Secreta"
    study = {
        name: f"{secret}^{name}" for name in ("patient_name", "patient_id", "accession_number", "study_description")
    }
    ledger, clock = two_models.ledger, two_models.clock
    made = []
    for end in (complete, lambda led, job, _: led.jobs.fail(job, f"a bug at {secret}"), None):
        verdict = replace(arrival().verdict, detail=f"the description says {secret}")
        record(ledger, arrival(study=study, verdict=verdict))
        made.append(claim(ledger))
        if end is not None:
            end(ledger, made[-1], "pacs")
        else:
            ledger.jobs.requeue(made[-1], secret, clock.now)
    turned = replace(NOT_ANALYSED, detail=f"the description says {secret}")
    record(ledger, arrival(study=study, verdict=turned))
    sent = ledger.deliveries.claim("pacs", 10)
    error, comment = "0xA900 does not match", f"no patient {secret}"
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.DEAD, error, comment=comment) for one in sent])
    ledger.deliveries.destination_failed("pacs", error, clock.now + timedelta(minutes=5))
    paths = ["", "/images", "/images.csv", "/deliveries", "/queue", "/node/drift", "/node/compare?a=main&b=other"]
    paths += [f"/images/{job.id}" for job in made] + [f"/live/{name}" for name in ("overview", "images", "queue")]
    with browser(two_models) as viewer, browser(two_models) as operator:
        sign_in(viewer, "vera")
        sign_in(operator, "otto")
        seen = {}
        for path in (*paths, "/live/deliveries"):
            texts = []
            for visitor in (viewer, operator):
                with visitor.stream("GET", f"/console{path}") as answer:
                    assert answer.status_code == 200
                    lines = answer.iter_lines()
                    is_live = path.startswith("/live")
                    texts.append(next(x for x in lines if x.startswith("data: ")) if is_live else "\n".join(lines))
            assert secret not in texts[0], path
            seen[path] = secret in texts[1]
        assert "does not match" in viewer.get("/console/deliveries").text
    assert sum(seen.values()) >= 8, "operators do"
    ledger.jobs.cancel(made[-1].id)


def test_a_picture_that_names_the_patient_is_for_those_who_may_see_patients(two_models: Site) -> None:
    ledger = two_models.ledger
    for said, is_hidden in (("YES", True), ("NO", False), (None, False)):
        image = arrival()
        record(ledger, image)
        job = claim(ledger)
        complete(ledger, job)
        dicom(Spool(load(two_models.config)[0].node.data_dir).path(image.path), 0, 0, BurnedInAnnotation=said)
        for name in ("vera", "otto"):
            with browser(two_models) as visitor:
                sign_in(visitor, name)
                is_shown = not is_hidden or name == "otto"
                assert ("data-stage" in visitor.get(f"/console/images/{job.id}").text) is is_shown
                if not is_shown:
                    assert visitor.get(f"/console/images/{job.id}/picture").status_code == 403


def test_what_may_be_done_to_an_image_is_for_those_who_may(two_models: Site) -> None:
    ledger = two_models.ledger
    record(ledger, arrival(study={"patient_id": "P-7", "patient_name": "Doe^Jane"}))
    job = claim(ledger)
    complete(ledger, job)
    page, study = f"/console/images/{job.id}", ledger.views.job(job.id).study_instance_uid
    with browser(two_models) as viewer, browser(two_models) as operator, browser(two_models) as admin:
        for visitor, name in ((viewer, "vera"), (operator, "otto"), (admin, "anna")):
            sign_in(visitor, name)
        fields = {"csrf": csrf(operator.get(page))}
        seen = {visitor: visitor.get(page).text for visitor in (viewer, operator, admin)}
        assert [f"{page}/withdraw" in text for text in seen.values()] == [False, True, True]
        assert [f"{page}/reanalyse" in text for text in seen.values()] == [False, True, True]
        assert [f"{page}/erase" in text for text in seen.values()] == [False, False, True]
        assert viewer.post(f"{page}/withdraw", data=fields).status_code == 403
        assert operator.get(f"{page}/erase").status_code == 403
        assert operator.post(f"{page}/erase", data=fields | {"sure": "yes", "whose": "study"}).status_code == 403
        assert operator.post(f"{page}/reanalyse", data=fields | {"model": "other"}).status_code == 303
        assert "cml" in operator.get(page).text, "its answer will stand beside the result"
        assert operator.post(f"{page}/reanalyse", data=fields | {"model": "none"}).status_code == 409
        assert operator.post(f"{page}/withdraw", data=fields).status_code == 303
        assert operator.post(f"{page}/withdraw", data=fields).status_code == 303, "it is so already"
        assert f"{page}/withdraw" not in operator.get(page).text
        assert operator.post(f"{page}/explode", data=fields).status_code == 404
        for whose, named in (("study", study), ("patient", "P-7")):
            assert named in admin.get(f"{page}/erase?whose={whose}").text
        sure = {"csrf": csrf(admin.get(f"{page}/erase")), "whose": "study"}
        assert admin.post(f"{page}/erase", data=sure).status_code == 400, "nobody said that they are sure"
        assert admin.get(page).status_code == 200
        gone = admin.post(f"{page}/erase", data=sure | {"sure": "yes"})
        assert gone.status_code == 200
        assert "one image" in gone.text
        assert admin.get(page).status_code == 404
