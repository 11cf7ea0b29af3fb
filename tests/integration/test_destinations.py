"""A destination that is paused, and one that is added later: what is sent, and what a site's rules keep from it."""

from __future__ import annotations

from pathlib import Path

from chexnode.ledger.destinations import History
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.rule import RuleSettings
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.vocabulary.filters import EVERYTHING
from chexnode.work.history import give_history
from support.deliveries import Node, result
from support.ledgers import arrival, claim, complete, opened, record
from support.radiographs import radiograph


def test_nothing_goes_to_a_paused_destination_and_all_of_it_once_it_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    node = Node(tmp_path, f"sqlite:///{tmp_path / 'chexnode.db'}", kind="folder", path=out, max_age_hours=24)
    node.ledger.destinations.pause("pacs")
    node.add(result())
    node.clock.skip(90 * 3600)
    assert node.deliver() == 0
    assert list(out.iterdir()) == []
    assert node.ledger.destinations.resume("pacs") == 1
    assert node.deliver() == 1
    assert node.states() == ["SENT"], "it has not aged"
    assert len(list(out.iterdir())) == 1
    node.ledger.close()


def test_a_new_destination_gets_its_history_unless_a_rule_sends_it_elsewhere(tmp_path: Path) -> None:
    rule = RuleSettings(name="research", station="LAB*", destinations=("elsewhere",))
    late, elsewhere = (DestinationSettings(name=n, kind="folder", path=tmp_path) for n in ("late", "elsewhere"))
    settings = Settings(node={"data_dir": tmp_path}, rule=(rule,), destination=(late, elsewhere))
    spool = Spool(tmp_path)
    spool.prepare()
    with opened(f"sqlite:///{tmp_path / 'chexnode.db'}") as ledger:
        for station in ("ROOM1", "LAB7"):
            image = arrival()
            path = spool.path(image.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            radiograph(StationName=station).save_as(path, enforce_file_format=True)
            record(ledger, image)
            complete(ledger, claim(ledger))
        # A Segmentation and a picture of each; of reports there are none.
        assert give_history(ledger, spool, settings, late, EVERYTHING) == History(2, 1, 1)
        assert give_history(ledger, spool, settings, elsewhere, EVERYTHING) == History(4, 2, 2)
        assert give_history(ledger, spool, settings, elsewhere, EVERYTHING).results == 0
