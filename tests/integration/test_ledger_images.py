"""The list of images that a person looks through: pages, counts and conditions. On both databases."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chexnode.ledger.images import Images, ImageSearch, ImageView, Place
from chexnode.ledger.ledger import Ledger
from chexnode.ledger.overview import recent_analyses
from support.ledgers import QUARANTINED, Clock, arrival, claim, complete, opened, record

SIZE = 5
SEARCHES = [
    ImageSearch(),
    ImageSearch(caller="OTHER"),
    ImageSearch(abnormal=True),
    ImageSearch(least_score=0.5),
    ImageSearch(state="QUEUED"),
    ImageSearch(state="QUARANTINED"),
    ImageSearch(caller="OTHER", abnormal=True),
]


@pytest.fixture
def images(ledger: Ledger, clock: Clock) -> Images:
    """Of 23 images some came at the same moment, some are analysed, two are quarantined."""
    for number in range(23):
        clock.forward(number % 2)
        caller = "OTHER" if number % 3 else "MODALITY"
        verdict = {"verdict": QUARANTINED} if number in (4, 17) else {}
        record(ledger, arrival(f"1.2.{number}", calling_ae_title=caller, **verdict))
    for number in range(6):
        complete(ledger, claim(ledger), score=number / 6)
    return ledger.images


def pages(images: Images, search: ImageSearch) -> list[ImageView]:
    """All of them, forward."""
    rows: list[ImageView] = []
    place: Place | None = None
    while True:
        page = images.page(search, SIZE, place)
        assert page.has_newer is (place is not None)
        rows += page.rows
        if not page.has_older:
            return rows
        assert len(page.rows) == SIZE
        place = page.rows[-1].place


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_pages_hold_every_row_once_and_are_counted(images: Images, search: ImageSearch) -> None:
    rows = pages(images, search)
    assert len({row.id for row in rows}) == len(rows) > 0
    assert [row.received_at for row in rows] == sorted((row.received_at for row in rows), reverse=True)
    assert images.count(search) == len(rows) == len(list(images.all(search)))


def test_a_page_back_is_the_one_before(images: Images) -> None:
    first = images.page(ImageSearch(), SIZE)
    second = images.page(ImageSearch(), SIZE, first.rows[-1].place)
    place = second.rows[0].place
    back = images.page(ImageSearch(), SIZE, Place(place.at, place.sop_instance_uid, place.digest, is_back=True))
    assert back.rows == first.rows
    assert (back.has_newer, back.has_older) == (False, True)


def test_what_a_form_offers_is_not_read_for_every_page(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = images.choices()
    assert offered == {"caller": ["MODALITY", "OTHER"], "station": [], "model": ["model 1"]}
    read = []
    monkeypatch.setattr(images, "_choices", lambda: read.append(1) or {})
    assert images.choices() == offered
    later = time.monotonic() + 31
    monkeypatch.setattr("chexnode.ledger.images.time.monotonic", lambda: later)
    assert (images.choices(), images.choices(), read) == ({}, {}, [1])


def test_the_latest_analyses_are_read_by_the_index_of_their_times(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/chexnode.db") as ledger, ledger.database.read() as conn:
        query = recent_analyses().compile(conn, compile_kwargs={"literal_binds": True})
        plan = str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
        assert "ix_jobs_state_created_at" in plan
        assert "TEMP B-TREE" not in plan, "nothing is sorted"
