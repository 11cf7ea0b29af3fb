"""Destinations under stress: DCMTK's storescp with every way it has of failing, a full one, one gone for a weekend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydicom.uid import JPEGBaseline8Bit, SegmentationStorage

from chexnode.vocabulary.states import DeliveryState
from support import servers
from support.deliveries import Node, data_set_bytes, result
from support.disks import SmallDisk

HOUR = 3600
DELIVERED, REFUSED, LATER = DeliveryState.SENT, DeliveryState.DEAD, DeliveryState.WAITING


def move_to(node: Node, port: int) -> None:
    """The destination is elsewhere from now on."""
    moved = node.destination.model_copy(update={"port": port})
    node.settings = node.settings.model_copy(update={"destination": (moved,)})


def tick(node: Node, looks: int = 14) -> None:
    """What a worker does: look every five seconds."""
    for _ in range(looks):
        node.deliver()
        node.clock.skip(5)


@pytest.mark.parametrize(
    ("options", "native", "jpeg", "why"),
    [
        ((), DELIVERED, DELIVERED, None),
        (("--reject",), DELIVERED, DELIVERED, None),  # we do say what implementation we are
        (("--prefer-lossless",), DELIVERED, REFUSED, "transfer syntax not accepted by destination: JPEG Baseline"),
        (("--prefer-big",), DELIVERED, REFUSED, "transfer syntax not accepted by destination: JPEG Baseline"),
        (("--implicit",), DELIVERED, REFUSED, "not accepted by destination: "),  # what is not compressed, re-encoded
        (("--max-pdu", "4096"), DELIVERED, DELIVERED, None),
        (("--refuse",), LATER, LATER, "association rejected"),
        (("--abort-during",), LATER, LATER, ", during a store"),
        (("--abort-after",), LATER, LATER, ", during a store"),
        (("--sleep-during", "30"), LATER, LATER, "did not answer for 2 s"),
        (("--sleep-after", "30"), DELIVERED, DELIVERED, None),  # it answers first: the next finds it asleep, and waits
    ],
    ids=lambda value: " ".join(value) or "well" if isinstance(value, tuple) else None,
)
def test_what_storescp_can_do_to_us_and_that_it_comes_right(
    make_node: Callable[..., Node],
    tmp_path: Path,
    options: Sequence[str],
    native: DeliveryState,
    jpeg: DeliveryState,
    why: str | None,
) -> None:
    """First it misbehaves and then it does not; every object ends where it should, with a reason where it does not."""
    objects = [result(size=200_000), result(syntax=JPEGBaseline8Bit)]
    # The last preference wins in storescp: ours would take everything.
    preference = () if "--implicit" in options or any("prefer" in o for o in options) else ("+xa",)
    with servers.PlainStoreSCP(tmp_path / "first", *preference, *options) as scp:
        node = make_node(port=scp.port, timeout_seconds=2 if "30" in options else 20)
        ids = node.add(*objects)
        tick(node, looks=4)
        found = node.view()
        assert [found[i].state for i in ids] == [native, jpeg]
        assert all(why in (found[i].error or "") for i in ids if why and found[i].state is not DELIVERED)
        down = node.ledger.deliveries.breaker("pacs").failures
        assert bool(down) == (LATER in (native, jpeg)), "refusing an object is not being down"
    with servers.StoreSCP(tmp_path / "then") as scp:
        move_to(node, scp.port)
        assert node.ledger.deliveries.replay(dead_only=True) == [native, jpeg].count(REFUSED)
        tick(node)
        assert node.states() == ["SENT", "SENT"]
        assert node.ledger.deliveries.breaker("pacs").failures == 0
        arrived = [data_set_bytes(path) for path in scp.files()]
        for ds, state in zip(objects, (native, jpeg), strict=True):
            if state is not DELIVERED:
                assert data_set_bytes(node.file(ds)) in arrived
    assert node.job_states() == {"DONE"}


def test_one_whose_disk_is_full_takes_what_it_can(make_node: Callable[..., Node], tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 8) as disk:
        if not disk.is_real:
            pytest.skip("only root may mount a tmpfs: no disk to fill here")
        with servers.StoreSCP(disk.folder) as scp:
            node = make_node(port=scp.port)
            node.add(*(result(size=1_000_000) for _ in range(4)))
            assert node.deliver() == 4
            disk.fill(leave=1_500_000)
            more = node.add(*(result(size=1_000_000) for _ in range(4)))
            assert node.deliver() == 4
            found = node.view()
            assert Counter(found[i].state.value for i in more) == {"SENT": 1, "WAITING": 3}
            assert {found[i].error for i in more} == {None, "0xA700 the destination is out of resources"}
            assert node.ledger.deliveries.breaker("pacs").failures == 0
            disk.drain()
            node.clock.skip(61)
            assert node.deliver() == 3
            assert len(scp.files()) == 8
    assert set(node.states()) == {"SENT"}


@pytest.mark.parametrize(("max_age_hours", "is_long_enough"), [(72, True), (48, False)])
def test_gone_for_a_weekend(
    make_node: Callable[..., Node], tmp_path: Path, max_age_hours: float, is_long_enough: bool
) -> None:
    """Friday 17:00 to Monday 07:00, an image an hour: one attempt at a time, and all is there on Monday morning."""
    node = make_node(port=servers.free_port(), max_age_hours=max_age_hours)
    for _ in range(62):
        node.add(result(), result(SegmentationStorage))
        node.deliver()
        node.clock.skip(HOUR)
    views = node.view().values()
    given_up = [view for view in views if view.state is REFUSED]
    assert 62 <= sum(view.attempts for view in views) - len(given_up) <= 62 + 2, "one knock at a time"
    assert DELIVERED not in {view.state for view in views}
    with servers.StoreSCP(tmp_path / "monday") as scp:
        move_to(node, scp.port)
        node.deliver()
        found = node.view()
        letters = [number for number, view in found.items() if view.state is REFUSED]
        assert {view.state for view in found.values()} <= {DELIVERED, REFUSED}, "in one go, waiting for nothing more"
        assert all((found[i].error or "").startswith("gave up after 48 h: no connection") for i in letters)
        assert bool(letters) != is_long_enough
        assert len(scp.files()) == 124 - len(letters)
        assert node.job_states() == {"DONE"}

        # The dead letters: one by its number, then the rest of this destination.
        if letters:
            assert node.ledger.deliveries.replay(ids=letters[:1], dead_only=True) == 1
            assert node.ledger.deliveries.replay(destination="elsewhere", dead_only=True) == 0
            assert node.ledger.deliveries.replay(destination="pacs", dead_only=True) == len(letters) - 1
            assert node.deliver() == len(letters)
        assert len(scp.files()) == 124
    assert set(node.states()) == {"SENT"}
