"""Which result goes where: pure, from the destinations' settings and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chexnode.ledger.states import ResultKind
from chexnode.settings import DestinationSettings

Variant = tuple[ResultKind, str]
"""A result object as one destination wants it, such as (SEG, "planar")."""

DEFAULT_VARIANTS: tuple[Variant, ...] = ((ResultKind.SEG, "planar"), (ResultKind.SC, "rgb"))
"""Made where no destination asks for anything: the node keeps them."""


@dataclass(frozen=True, slots=True)
class Route:
    """One variant to one destination."""

    destination: str
    variant: Variant


def routes(
    destinations: Sequence[DestinationSettings], calling_ae_title: str, abnormal: bool | None
) -> tuple[Route, ...]:
    """Every (destination, variant) for an image from ``calling_ae_title``.

    ``abnormal`` None ("not evaluated") goes also to those who want only abnormal ones: a missing answer must never
    look like a normal one.
    """
    return tuple(
        Route(d.name, _variant(d, ResultKind(kind)))
        for d in destinations
        if (not d.peers or calling_ae_title in d.peers) and not (d.send == "abnormal" and abnormal is False)
        for kind in d.results
    )


def variants(chosen: Sequence[Route]) -> tuple[Variant, ...]:
    """The distinct variants to encode."""
    return tuple(dict.fromkeys(route.variant for route in chosen)) or DEFAULT_VARIANTS


def _variant(destination: DestinationSettings, kind: ResultKind) -> Variant:
    return kind, destination.seg_profile if kind is ResultKind.SEG else destination.sc_encoding
