"""What the console does, over ``/api``: with its scope, idempotent; and the feed of what happened."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from chexnode.ledger.feed import FeedEvent, _settled
from chexnode.ledger.ledger import Ledger
from chexnode.settings.tree import Settings
from chexnode.vocabulary.records import DeliveryOutcome
from chexnode.vocabulary.scopes import TokenScope
from chexnode.vocabulary.states import DeliveryState
from chexnode.web import console
from chexnode.web.console import image
from support.ledgers import OTHER_SPEC, Clock, arrival, claim, complete, opened, record
from support.webs import serving

Site = tuple[httpx.Client, Ledger]


@pytest.fixture
def site(tmp_path: object) -> Iterator[Site]:
    """A web role whose caller may do everything, a destination in its settings."""
    url = f"sqlite:///{tmp_path}/chexnode.db"
    pacs = {"name": "pacs", "kind": "dicom", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    settings = Settings(node={"data_dir": f"{tmp_path}/var"}, database={"url": url}, destination=[pacs])
    with opened(url) as ledger, serving(settings, ledger) as client:
        _, secret = ledger.tokens.add("all", [TokenScope.ADMIN])
        client.headers["Authorization"] = f"Bearer {secret}"
        yield client, ledger


def dead(ledger: Ledger) -> str:
    """A job whose deliveries were given up; its id."""
    record(ledger, arrival())
    job = claim(ledger)
    complete(ledger, job, "pacs")
    give_up(ledger)
    return job.id


def give_up(ledger: Ledger) -> list[int]:
    """Both deliveries; their ids."""
    claims = ledger.deliveries.claim("pacs", 2)
    ledger.deliveries.settle([DeliveryOutcome(one, DeliveryState.DEAD, "refused") for one in claims])
    return [one.id for one in claims]


def test_a_job_is_cancelled_and_retried_once_however_often_it_is_asked_for(site: Site) -> None:
    client, ledger = site
    record(ledger, arrival())
    (job,) = [view.id for view in ledger.views.jobs()]
    assert client.post(f"/api/jobs/{job}/retry").json() == {"job": job, "state": "QUEUED", "changed": False}
    for changed in (True, False):
        answer = client.post(f"/api/jobs/{job}/cancel").json()
        assert answer == {"job": job, "state": "CANCELLED", "changed": changed}
    for changed in (True, False):
        answer = client.post(f"/api/jobs/{job}/retry").json()
        assert answer == {"job": job, "state": "QUEUED", "changed": changed}
    by = [event.detail for event in ledger.views.job(job).events if event.event in ("cancelled", "retried")]
    assert by == ["all", "all"]
    assert client.post("/api/jobs/0123456789abcdef/cancel").status_code == 404


def test_what_its_state_does_not_allow_is_a_conflict(site: Site) -> None:
    client, ledger = site
    job = dead(ledger)
    assert client.post(f"/api/jobs/{job}/cancel").status_code == 409
    assert client.post(f"/api/jobs/{job}/retry").status_code == 409


def test_what_was_given_up_is_sent_again_once(site: Site) -> None:
    client, ledger = site
    job = dead(ledger)
    for path, body in (
        (f"/api/jobs/{job}/replay?dead_only=true", None),
        ("/api/deliveries/replay", {"all_dead": True}),
    ):
        assert client.post(path, json=body).json() == {"replayed": 2}
        assert client.post(path, json=body).json() == {"replayed": 0}
        ids = give_up(ledger)
    assert client.post("/api/deliveries/replay", json={"ids": ids[:1]}).json() == {"replayed": 1}
    assert client.post("/api/deliveries/replay", json={"destination": "elsewhere"}).status_code == 400
    assert client.post("/api/deliveries/replay", json={}).status_code == 400


def test_what_was_given_up_for_one_reason_is_sent_again(site: Site) -> None:
    client, ledger = site
    dead(ledger)
    for body, code in (({"destination": "pacs", "error": "other"}, 200), ({"error": "refused"}, 400)):
        assert client.post("/api/deliveries/replay", json=body).status_code == code
    assert ledger.work.dead()[0].count == 2
    for count in (2, 0):
        body = {"destination": "pacs", "error": "refused"}
        assert client.post("/api/deliveries/replay", json=body).json() == {"replayed": count}


#: What the console has done by a form or a script -> the operation that does the same.
OPERATIONS = {
    "/console/images/{name}/retry": "/api/jobs/{job}/retry",
    "/console/images/{name}/cancel": "/api/jobs/{job}/cancel",
    "/console/images/{name}/replay": "/api/jobs/{job}/replay",
    "/console/images/{name}/withdraw": "/api/jobs/{job}/withdraw",
    "/console/images/{name}/reanalyse": "/api/reanalysis",
    "/console/images/{name}/rollback": "/api/reanalysis/rollback",
    "/console/images/{name}/erase": "/api/erasure",
    "/console/deliveries/replay": "/api/deliveries/replay",
    "/console/destinations/pause": "/api/destinations/{name}/pause",
    "/console/destinations/resume": "/api/destinations/{name}/resume",
    "/console/try": "/api/analyze",
    "/console/sign-out": None,
    "/console/sign-in": None,
}


def test_whatever_the_console_does_is_an_operation_that_needs_a_scope_and_has_an_example(site: Site) -> None:
    client, _ = site
    templates = Path(console.__file__).parent / "templates"
    html = "\n".join(path.read_text("utf-8") for path in sorted(templates.glob("*.html")))
    asked = set(re.findall(r'(?:\baction|data-action)="\{\{ base \}\}([^"]*)"', html)) - {"/images", "/node/audit"}
    asked -= {"/node/compare", "/node/drift"}
    acts = {path.removeprefix("/console").replace("{name}", "{{ job.id }}") for path in OPERATIONS}
    for family in asked:
        pattern = re.sub(r"\{\{ ([^}]*) \}\}", lambda found: found[0] if "job.id" in found[1] else "*", family)
        assert [one for one in acts if re.fullmatch(re.escape(pattern).replace(r"\*", r"\w+"), one)], family
    offered = set(re.findall(r'"(\w+)": (?:acts\.|lambda)', inspect.getsource(image)))
    assert {f"/console/images/{{name}}/{act}" for act in offered} <= OPERATIONS.keys()
    described = client.get("/api/openapi.json").json()
    for path in filter(None, OPERATIONS.values()):
        operation = described["paths"][path]["post"]
        assert operation["security"], path
        assert path == "/api/analyze" or "example" in operation["responses"]["200"]["content"]["application/json"]
        assert client.post(path, headers={"Authorization": "Bearer none"}).status_code == 401


def test_results_are_withdrawn_once(site: Site) -> None:
    client, ledger = site
    job = dead(ledger)
    for changed in (True, False):
        answer = client.post(f"/api/jobs/{job}/withdraw").json()
        assert answer == {"job": job, "changed": changed, "destinations": []}, "nothing has arrived there"
    view = ledger.views.job(job)
    assert {result.superseded for result in view.results} == {"rejected"}
    assert {delivery.state for delivery in view.deliveries} == {"WITHDRAWN"}
    assert [event.detail for event in view.events if event.event == "withdrawn"] == ["all"]
    assert client.post(f"/api/jobs/{job}/replay").json() == {"replayed": 0}
    record(ledger, arrival())
    (queued,) = [one.id for one in ledger.views.jobs(["QUEUED"])]
    assert client.post(f"/api/jobs/{queued}/withdraw").status_code == 409
    assert client.post("/api/jobs/0123456789abcdef/withdraw").status_code == 404


def test_one_image_is_analysed_again_by_another_model(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chexnode.db"
    settings = Settings(node={"data_dir": f"{tmp_path}/var"}, database={"url": url})
    with opened(url) as ledger:
        uids = [arrival(), arrival()]
        record(ledger, *uids)
        for _ in uids:
            complete(ledger, claim(ledger))
        with serving(settings, ledger, spec=OTHER_SPEC) as client:
            asked = {"image": uids[0].sop_instance_uid}
            assert client.post("/api/reanalysis", json=asked | {"dry_run": True}).json()["queued"] == 1
            assert client.post("/api/reanalysis", json=asked).json()["queued"] == 1
        assert [view.sop_instance_uid for view in ledger.views.jobs(["QUEUED"])] == [uids[0].sop_instance_uid]


def test_reading_is_not_acting_and_other_sites_may_not(site: Site) -> None:
    client, ledger = site
    job = dead(ledger)
    _, reader = ledger.tokens.add("reader", [TokenScope.READ, TokenScope.STORE])
    paths = [f"/api/jobs/{job}/{act}" for act in ("retry", "cancel", "replay")]
    for path in (*paths, "/api/deliveries/replay", "/api/analyze"):
        refused = client.post(path, headers={"Authorization": f"Bearer {reader}"})
        assert (refused.status_code, "insufficient_scope" in refused.headers["www-authenticate"]) == (403, True)
        assert client.post(path, headers={"Origin": "https://evil.example"}).status_code == 403
        assert client.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_the_feed_has_every_event_once_and_goes_on_where_it_was(site: Site) -> None:
    client, ledger = site
    start = client.get("/api/events?after=latest").json()["next"]
    dead(ledger)
    seen, after, more = [], start, True
    while more:
        page = client.get(f"/api/events?after={after}&limit=2").json()
        assert len(page["events"]) <= 2
        seen += page["events"]
        after, more = page["next"], page["more"]
    assert [(one["subject"], one["event"]) for one in seen] == [
        ("instance", "new"),
        ("job", "created"),
        ("job", "claimed"),
        ("job", "analysed"),
        ("delivery", "dead"),
        ("delivery", "dead"),
        ("job", "done"),
    ]
    assert client.get(f"/api/events?after={after}").json() == {"events": [], "next": after, "more": False}
    everything = client.get("/api/events").json()["events"]
    assert {one["subject"] for one in everything} == {"instance", "job", "delivery"}  # no tokens
    assert client.get("/api/events?after=soon").status_code == 422


def test_a_number_that_may_still_come_is_waited_for() -> None:
    clock = Clock()

    def event(number: int, age: float = 0.0) -> FeedEvent:
        return FeedEvent(number, clock.now - timedelta(seconds=age), "job", "a", "done", None, None, None)

    old = clock.now - timedelta(minutes=3)
    assert _settled([event(5), event(6), event(8)], 4, old) == [event(5), event(6)]
    assert _settled([event(6)], 4, old) == []
    assert _settled([event(5, 200), event(7, 190), event(8)], 4, old) == [event(5, 200), event(7, 190), event(8)]
