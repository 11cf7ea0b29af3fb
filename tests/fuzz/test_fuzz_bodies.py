"""Mutated Store requests against a running service, whose disk and ledger must agree with what it has said."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chexnode.settings.limits import LimitSettings
from fuzz import layers, stores
from fuzz.cases import Case, body_case, keep
from support.dicomweb import DICOM, Service, serving
from support.receivers import a_settings, rows, spooled
from support.senders import Part10
from support.servers import wait_for

#: Files by themselves, and what of them must be made anew.
_READ = (("", f"{DICOM}; transfer-syntax=*"), ("/metadata", "*/*"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(a_settings(tmp_path, limits=LimitSettings(inflate_mb=8))) as service:
        yield service


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_mutated_store_requests(
    service: Service,
    sources: list[Part10],
    seed: str,
    cases: int,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.ERROR)
    acknowledged: dict[str, set[str]] = defaultdict(set)
    statuses: Counter[int] = Counter()
    for number in range(cases * 10 // 100):
        case = body_case(seed, number, sources)
        try:
            answer = _play(service, case, acknowledged.keys())
        except Exception as error:
            raise AssertionError(f"{case.name}: {error!r}; {keep([case], 'body')}") from error
        faults = [one for one in caplog.records if not one.name.startswith("pydicom")]  # our own reading here is
        assert not faults, f"{case.name}: {caplog.text}; {keep([case], 'body')}"
        statuses[answer.status] += 1
        assert case.body is not None
        for uid in answer.stored:
            acknowledged[uid] |= set(case.body.digests)
    known = defaultdict(set)
    for row in rows(service.ledger):
        known[row.sop_instance_uid].add(row.digest)
    for uid, digests in acknowledged.items():
        assert known[uid], f"{uid} was acknowledged and is not known"
        assert not digests or digests & known[uid], f"{uid} is not what was acknowledged"
    tmp = service.settings.node.data_dir / "spool" / "tmp"

    def agree() -> bool:
        return not [*tmp.iterdir()] and {path.name for path in spooled(service.settings)} == {
            Path(row.path).name for row in rows(service.ledger)
        }

    # What came whole from a client that has gone meanwhile is still being stored.
    wait_for(agree, "disk and ledger to agree, without unfinished files")
    assert {200, 202, 400, 409, 415} <= statuses.keys(), statuses
    with capsys.disabled():
        print(f"\nbodies: seed {seed}, {dict(sorted(statuses.items()))}, {len(acknowledged)} stored")


def _play(service: Service, case: Case, known: Collection[str]) -> stores.Answer:
    """Store, and read again what was stored; another version of what is ``known`` may be of another series."""
    assert case.body is not None
    port = service.client.base_url.port
    assert port is not None
    answer = stores.store(port, case.body)
    with layers.in_time():
        for uid, url in answer.stored.items():
            for below, accept in _READ if url else ():
                path = f"{urlsplit(url).path.removeprefix('/dicom-web')}{below}"
                got = service.client.get(path, headers={"Accept": accept})
                good = (200, 404) if uid in known else (200,)
                assert got.status_code in good, f"{got.status_code} of what was stored: {got.text[:200]}"
    return answer
