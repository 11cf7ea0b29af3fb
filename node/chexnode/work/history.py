"""The past, for a destination that was added later: the valid results that it never got."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread

from chexnode.deliver.routing import wanted
from chexnode.ledger.destinations import History
from chexnode.ledger.ledger import Ledger
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.tree import Settings
from chexnode.spool.spool import Spool
from chexnode.triage.rules import deciding_rule
from chexnode.vocabulary.filters import Filter


def give_history(ledger: Ledger, spool: Spool, settings: Settings, to: DestinationSettings, of: Filter) -> History:
    """Make deliveries to ``to`` of the results of images that were received in the times of ``of``.

    It gets what it would have got: its forms, callers and findings, and only of images that no rule of the site
    (``[[rule]]``) sends elsewhere. Raises Transient when the database is away; the call is then simply made again.
    """

    def permits(path: str, calling_ae_title: str) -> bool:
        try:
            header = dcmread(BytesIO(spool.read(path)), stop_before_pixels=True)
        except FileNotFoundError:
            return False
        rule = deciding_rule(settings.rule, header, calling_ae_title)
        return rule is None or rule.destinations is None or to.name in rule.destinations

    return ledger.destinations.fill(
        to.name,
        wanted(to),
        of,
        peers=to.peers,
        abnormal_only=to.send == "abnormal",
        permits=permits if any(rule.destinations is not None for rule in settings.rule) else None,
    )
