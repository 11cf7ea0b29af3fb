"""What destinations say: shown to whom it may be, never logged; and answers that no code of ours expects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from pydicom.dataset import Dataset

from chexnode.deliver import courier
from chexnode.deliver.destination import DeliveryAnswer, Outgoing, Sent
from chexnode.vocabulary.errors import DestinationDown
from support import servers
from support.deliveries import Node, result, scripted


def test_what_the_destination_says_is_shown_and_never_logged(
    make_node: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    says = Dataset()
    says.Status, says.ErrorComment = 0xA900, "no study of Doe^Jane"
    with scripted(lambda event: says) as (port, _), caplog.at_level("DEBUG"):
        node = make_node(port=port)
        [number] = node.add(result())
        assert node.deliver() == 1
    ours = "0xA900 data set does not match SOP class"
    assert node.view()[number].error == f"{ours} (no study of Doe^Jane)"
    assert [group.error for group in node.ledger.work.dead(with_comments=False)] == [ours]
    assert "Jane" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("chexnode"))


class Talkative:
    """A destination that is away and says of whom that is."""

    def send(self, items: Sequence[Outgoing]) -> Iterator[Sent]:
        raise DestinationDown("status 0x0110", "no patient (P-4711)")

    def close(self) -> None:
        """Nothing stays open."""


def test_what_the_other_side_said_of_a_patient_is_not_passed_on(
    make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(courier, "open_destination", lambda *_: Talkative())
    node = make_node(port=servers.free_port())
    [number] = node.add(result())
    assert node.deliver() == 1
    assert node.view()[number].error == "status 0x0110 (no patient (P-4711))"
    assert node.ledger.deliveries.breaker("pacs").last_error == "status 0x0110", "an alarm says so, to whoever it goes"
    assert [record for record in caplog.records if "0x0110" in record.getMessage()]
    assert not [record for record in caplog.records if "4711" in record.getMessage()]


class Surprising:
    """A destination whose answers make our own code fail in a way that nobody has foreseen."""

    name = "pacs"

    def __init__(self) -> None:
        self.closed = 0

    def send(self, items: Sequence[Outgoing]) -> Iterator[Sent]:
        yield from [Sent(item, DeliveryAnswer.ACCEPTED) for item in items[:1] if len(items) > 1]
        raise IndexError("list index out of range")

    def request_commitment(self, request: object, told: object) -> None:
        raise IndexError("list index out of range")

    def close(self) -> None:
        self.closed += 1
        raise ValueError("closed twice")


def test_an_answer_that_no_code_expects_is_recorded_counted_and_closed(
    make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    surprising = Surprising()
    monkeypatch.setattr(courier, "open_destination", lambda *_: surprising)
    node = make_node(port=servers.free_port(), max_age_hours=1)
    first, second = node.add(result(), result())
    assert node.deliver() == 2
    view = node.view()
    assert (view[first].state, view[first].error) == ("SENT", None)
    assert (view[second].state, view[second].attempts) == ("WAITING", 1)
    assert view[second].error == "its answer was not expected (IndexError): the log says more"
    assert node.ledger.deliveries.breaker("pacs").failures == 1
    assert surprising.closed == 1
    node.clock.skip(120)
    node.deliver()
    assert node.ledger.deliveries.breaker("pacs").failures == 2
    node.clock.skip(3600)
    node.deliver()
    assert node.view()[second].state == "DEAD"
    assert "gave up after 1 h: its answer was not expected" in (node.view()[second].error or "")
    assert surprising.closed == 3
