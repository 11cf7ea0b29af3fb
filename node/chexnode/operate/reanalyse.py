"""What a person asks to be analysed again, as the settings have it done."""

from __future__ import annotations

from chexnode.ledger.reanalysis import Request
from chexnode.node import Node
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.reports import Reanalysis


def reanalyse(
    node: Node, wanted: Filter, model: str | None = None, *, only_done: bool = False, is_dry_run: bool = False
) -> Reanalysis:
    """Have the images that ``wanted`` means analysed by ``model``, a name of the settings; None: the one that delivers.

    A model on trial analyses them and delivers nothing. Raises Usage for an unknown name, and where ``wanted`` is
    everything.
    """
    name = model or node.settings.model.name
    if name not in node.offered:
        raise Usage(f"no model {name!r} in the settings; there are: {', '.join(node.offered)}")
    settings = node.settings.reanalysis
    purpose = Purpose.BESIDE if settings.sets == "beside" else Purpose.REANALYSIS
    if name != node.settings.model.name:
        purpose = Purpose.SHADOW
    request = Request(_narrowed(wanted), purpose, [node.offered[name]], only_done, settings.per_minute, is_dry_run)
    return _request(node, request)


def rollback(node: Node, wanted: Filter, *, is_dry_run: bool = False) -> Reanalysis:
    """Have the results before a reanalysis made again, from the stored answers, in place of those of the reanalysis.

    Raises Usage where ``wanted`` is everything.
    """
    specs = list(node.offered.values())
    pace = node.settings.reanalysis.per_minute
    return _request(node, Request(_narrowed(wanted), Purpose.ROLLBACK, specs, True, pace, is_dry_run))


def _narrowed(wanted: Filter) -> Filter:
    if wanted.is_empty:
        raise Usage("say which images: --since, --until, --study, --accession or --patient")
    return wanted


def _request(node: Node, request: Request) -> Reanalysis:
    found = node.ledger.reanalyses.request(request)
    if found.queued and not request.is_dry_run:
        node.bell.ring("infer")
    return found
