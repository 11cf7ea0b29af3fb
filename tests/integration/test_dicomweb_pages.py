"""Pages of a search, whatever was stored, moved and refused before and meanwhile: together they are the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.schema import metadata
from chexnode.vocabulary.records import Arrival
from support.dicomweb import Service, serving
from support.ledgers import QUARANTINED, arrival, record
from support.receivers import a_settings

UID_OF = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}
#: Where the versions of one image are, one after the other: 0 is a study of its own, 9 one that all share.
KINDS = {
    "in a study of its own": (0,),
    "in the study that all share": (9,),
    "in no study": (None,),
    "moved to another study": (0, 9),
    "moved and back": (0, 9, 0),
    "lost its study": (0, None),
    "found its study": (None, 0),
    "sent twice": (0, 0),
}


@pytest.fixture
def service(ledger: Ledger, tmp_path: Path) -> Iterator[Service]:
    with serving(a_settings(tmp_path), ledger) as service:
        yield service


def versions(number: int, kind: str) -> list[Arrival]:
    found = []
    for place in KINDS[kind]:
        study = "" if place is None else f"1.2.{place}" if place else f"1.2.100.{number}"
        one = replace(
            arrival(f"1.9.{number}", f"{number} in {place}"),
            study_instance_uid=study,
            series_instance_uid=f"{study}.1" if study else "1.7",
            study={"study_date": f"2024{number % 12 + 1:02}01", "patient_id": "P"},
            series={"modality": "CR", "series_number": 1},
            instance={"instance_number": number},
        )
        found.append(one if study else replace(one, verdict=QUARANTINED))
    return found


def uids(service: Service, level: str, **query: str) -> tuple[list[str], bool]:
    answer = service.get(f"/{level}", **query)
    assert answer.status_code == 200
    return [row[UID_OF[level]]["Value"][0] for row in answer.json()], "warning" in answer.headers


def emptied(ledger: Ledger) -> None:
    with ledger.database.write() as conn:
        for table in reversed(metadata.sorted_tables):
            if table.name in ("jobs", "instances", "series", "studies", "events"):
                conn.execute(table.delete())


@settings(max_examples=12, deadline=None, suppress_health_check=[*HealthCheck])
@given(kinds=st.lists(st.sampled_from(sorted(KINDS)), max_size=9), limit=st.integers(1, 4), data=st.data())
def test_pages_together_are_the_whole(service: Service, kinds: list[str], limit: int, data: st.DataObject) -> None:
    emptied(service.ledger)
    for number, kind in enumerate(kinds):
        for version in versions(number, kind):
            record(service.ledger, version)
    # A version that is in no study, which is quarantined, takes the place of none.
    last = [next((place for place in reversed(KINDS[kind]) if place is not None), None) for kind in kinds]
    counts = {"instances": sum(place is not None for place in last), "studies": last.count(0) + (9 in last)}
    for level in UID_OF:
        whole, is_more = uids(service, level)
        assert not is_more
        assert len(whole) == len(set(whole)) == counts.get(level, counts["studies"])
        pages: list[str] = []
        while True:
            page, is_more = uids(service, level, limit=str(limit), offset=str(len(pages)))
            pages += page
            assert len(page) == min(limit, len(whole) - len(pages) + len(page))
            assert is_more == (len(pages) < len(whole))
            if not is_more:
                break
        assert pages == whole
    # While images come: none of those that were there is passed over, and no page is short where there is more.
    before, _ = uids(service, "studies")
    seen: list[str] = []
    for number in range(100, 140):
        page, is_more = uids(service, "studies", limit=str(limit), offset=str(len(seen)))
        seen += page
        assert len(page) == limit or not is_more
        if not is_more:
            break
        if number % 2:  # slower than they are read, or there is no end
            kind = data.draw(st.sampled_from(["in a study of its own", "in no study", "sent twice"]))
            record(service.ledger, *versions(number, kind))
    assert set(before) <= set(seen)
