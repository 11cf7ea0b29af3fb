"""Which result goes where: pure, from the destinations' settings and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    JPEGBaseline8Bit,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from chexnode.settings.destination import DestinationSettings
from chexnode.settings.rule import RuleSettings
from chexnode.vocabulary.variants import ResultKind, SrForm, Variant

Context = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID."""

#: The SOP class and the one transfer syntax that an object is stored in, which is all that is ever proposed for it:
#: the stored bytes are sent, and any other transfer syntax would be a re-encoding. By kind
#: and, where that decides, a part of the form.
CONTEXTS: Mapping[tuple[ResultKind, str], Context] = {
    (ResultKind.SEG, ""): (SegmentationStorage, ExplicitVRLittleEndian),
    (ResultKind.SC, "jpeg"): (SecondaryCaptureImageStorage, JPEGBaseline8Bit),
    (ResultKind.SC, ""): (SecondaryCaptureImageStorage, ExplicitVRLittleEndian),
    (ResultKind.SR, "comprehensive3d"): (Comprehensive3DSRStorage, ExplicitVRLittleEndian),
    (ResultKind.SR, "comprehensive"): (ComprehensiveSRStorage, ExplicitVRLittleEndian),
    (ResultKind.GSPS, ""): (GrayscaleSoftcopyPresentationStateStorage, ExplicitVRLittleEndian),
    (ResultKind.KO, ""): (KeyObjectSelectionDocumentStorage, ExplicitVRLittleEndian),
}

DEFAULT_VARIANTS: tuple[Variant, ...] = (
    Variant(ResultKind.SEG, "planar"),
    Variant(ResultKind.SC, "rgb"),
    Variant(ResultKind.SR, str(SrForm(seg_profile="planar"))),
)
"""Made where no destination asks for anything: the node keeps them."""


@dataclass(frozen=True, slots=True)
class Route:
    """One variant to one destination."""

    destination: str
    variant: Variant


def routes(
    destinations: Sequence[DestinationSettings],
    calling_ae_title: str,
    abnormal: bool | None,
    rule: RuleSettings | None = None,
) -> tuple[Route, ...]:
    """Every (destination, variant) for an image from ``calling_ae_title``, on which ``rule`` of the site decides.

    ``abnormal`` None ("not evaluated") goes also to those who want only abnormal ones: a missing answer must never
    look like a normal one.
    """
    return tuple(
        Route(d.name, variant)
        for d in destinations
        if rule is None or rule.destinations is None or d.name in rule.destinations
        if (not d.peers or calling_ae_title in d.peers) and not (d.send == "abnormal" and abnormal is False)
        for variant in wanted(d)
    )


def variants(chosen: Sequence[Route]) -> tuple[Variant, ...]:
    """The distinct variants to encode."""
    return tuple(dict.fromkeys(route.variant for route in chosen)) or DEFAULT_VARIANTS


def wanted(destination: DestinationSettings) -> tuple[Variant, ...]:
    """What ``destination`` gets for an image, each once; the heat map is a second Secondary Capture."""
    d = destination
    # A report refers to the Segmentation that goes to the same place, or to none.
    report = SrForm(d.sr_class, d.sr_outline, d.seg_profile if "seg" in d.results else None)
    forms: list[tuple[ResultKind, str]] = [
        (
            ResultKind(kind),
            {
                "seg": d.seg_profile,
                "sc": d.sc_encoding,
                "sr": str(report),
                "gsps": "outline",
            }[kind],
        )
        for kind in dict.fromkeys(d.results)
    ]
    if d.heat_map:
        forms.append((ResultKind.SC, "heat" if d.sc_encoding == "rgb" else "heat-jpeg"))
    return tuple(Variant(kind, form, d.label) for kind, form in forms)


def contexts(destination: DestinationSettings) -> tuple[Context, ...]:
    """The presentation contexts that are proposed to ``destination`` in the course of time, each once."""
    chosen = [_context(variant) for variant in wanted(destination)]
    if destination.not_analysed:
        chosen.append(CONTEXTS[ResultKind.SR, destination.sr_class])
    if destination.withdraw == "iocm" and not destination.is_only_asked:
        chosen.append(CONTEXTS[ResultKind.KO, ""])
    return tuple(dict.fromkeys(chosen))


def _context(variant: Variant) -> Context:
    parts = variant.form.split("-")
    return next(context for (kind, part), context in CONTEXTS.items() if kind is variant.kind and part in ("", *parts))
