"""Group commit: arrivals share transactions, nobody waits for one who does not come, and a fault hits only its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from chexnode.receive.committer import MAX_MEANWHILE, Committer, NotRecorded
from chexnode.spool.spool import DiskRefused, Spool
from chexnode.vocabulary.errors import Transient
from chexnode.vocabulary.records import Arrival, Outcome, Receipt
from support.ledgers import CountingBell, arrival
from support.servers import wait_for


class Book:
    """Records in memory; ``gate`` holds the first transaction until it is set."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.refuse: dict[str, Exception] = {}
        self.lose: set[str] = set()
        """Whose COMMIT is never answered."""
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.gate.set()

    def record(self, arrivals: Sequence[Arrival], before_commit: Callable[[], None]) -> list[Receipt]:
        self.entered.set()
        self.gate.wait(10)
        for one in arrivals:
            if one.sop_instance_uid in self.refuse:
                raise self.refuse[one.sop_instance_uid]
        before_commit()
        for one in arrivals:
            if one.sop_instance_uid in self.lose:
                raise Transient("the connection was lost")
        self.batches.append([one.sop_instance_uid for one in arrivals])
        return [Receipt(Outcome.NEW, one.path, "job") for one in arrivals]


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def committer(tmp_path: Path, book: Book) -> Iterator[Committer]:
    spool = Spool(tmp_path)
    spool.prepare()
    (tmp_path / Path(arrival().path).parent).mkdir(parents=True, exist_ok=True)
    committer = Committer(spool, book.record, CountingBell())
    committer.start()
    yield committer
    committer.stop()


def submit(committer: Committer, one: Arrival, keep: Callable[[], None] = lambda: None) -> threading.Thread:
    thread = threading.Thread(target=lambda: committer.submit(one, keep))
    thread.start()
    return thread


def test_what_comes_during_a_commit_is_committed_together(committer: Committer, book: Book) -> None:
    book.gate.clear()
    first = submit(committer, arrival("1.1"))
    assert book.entered.wait(10)
    rest = [submit(committer, arrival(f"1.2.{n}")) for n in range(5)]
    wait_for(lambda: committer._queue.qsize() == 5, "five to wait")
    book.gate.set()
    for thread in [first, *rest]:
        thread.join()
    assert book.batches[0] == ["1.1"]
    assert sorted(book.batches[1]) == [f"1.2.{n}" for n in range(5)]
    assert len(book.batches) == 2


def test_senders_in_a_series_are_waited_for_and_share_a_transaction(committer: Committer, book: Book) -> None:
    """Two senders that answer each other's rhythm end up in the same transactions, whoever comes first."""
    turn = threading.Barrier(2, timeout=10)

    def send(number: int) -> None:
        for n in range(5):
            turn.wait()
            committer.submit(arrival(f"1.{number}.{n}"), lambda: None)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, book.batches)) == 10
    assert max(map(len, book.batches)) == 2


def test_a_sender_that_stays_away_holds_nobody_up(committer: Committer, book: Book) -> None:
    submit(committer, arrival("1.1")).join()
    assert committer.submit(arrival("1.2"), lambda: None).outcome is Outcome.NEW
    assert book.batches == [["1.1"], ["1.2"]]


@pytest.mark.parametrize("size", [1000, MAX_MEANWHILE + 1])
def test_a_file_that_cannot_be_kept_gives_its_own_error_and_no_row(committer: Committer, book: Book, size: int) -> None:
    def keep() -> None:
        raise DiskRefused("full")

    with pytest.raises(DiskRefused):
        committer.submit(arrival("1.1", size=size), keep)
    assert book.batches == []


@pytest.mark.parametrize(
    ("error", "transient"), [(Transient("away"), True), (ValueError("a bug"), False), (KeyError("a bug"), False)]
)
def test_a_fault_hits_only_its_own_arrival(committer: Committer, book: Book, error: Exception, transient: bool) -> None:
    book.refuse["1.6"] = error
    threads = [submit(committer, arrival(f"1.1.{n}")) for n in range(4)]
    with pytest.raises(NotRecorded) as refused:
        committer.submit(arrival("1.6"), lambda: None)
    for thread in threads:
        thread.join()
    assert refused.value.transient is transient
    assert refused.value.removable
    assert sorted(uid for batch in book.batches for uid in batch) == [f"1.1.{n}" for n in range(4)]


def test_a_file_that_may_have_a_row_is_not_removable(committer: Committer, book: Book) -> None:
    book.lose = {"1.6"}
    with pytest.raises(NotRecorded) as refused:
        committer.submit(arrival("1.6"), lambda: None)
    assert not refused.value.removable


def test_stopping_commits_what_was_submitted(tmp_path: Path, book: Book) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    (tmp_path / Path(arrival().path).parent).mkdir(parents=True, exist_ok=True)
    committer = Committer(spool, book.record, CountingBell())
    committer.start()
    book.gate.clear()
    threads = [submit(committer, arrival("1.1"))]
    assert book.entered.wait(10)
    threads += [submit(committer, arrival(f"1.2.{n}")) for n in range(2)]
    wait_for(lambda: committer._queue.qsize() == 2, "two to wait")
    stopping = threading.Thread(target=committer.stop)
    stopping.start()
    book.gate.set()
    for thread in [*threads, stopping]:
        thread.join(10)
    assert sum(map(len, book.batches)) == 3
