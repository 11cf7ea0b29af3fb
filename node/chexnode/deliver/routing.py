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
from chexnode.vocabulary.variants import (
    GspsForm,
    KoForm,
    NotAnalysedForm,
    ResultForm,
    ScForm,
    SegForm,
    SrClass,
    SrForm,
    Variant,
)

Context = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID."""

REJECTION_NOTE: Context = (KeyObjectSelectionDocumentStorage, ExplicitVRLittleEndian)
"""Of the notes by which results are withdrawn."""

_SR_CLASSES: Mapping[SrClass, str] = {
    "comprehensive3d": Comprehensive3DSRStorage,
    "comprehensive": ComprehensiveSRStorage,
}

DEFAULT_VARIANTS: tuple[Variant, ...] = (Variant(SegForm()), Variant(ScForm()), Variant(SrForm(seg_profile="planar")))
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
    of_kind: Mapping[str, ResultForm] = {
        "seg": SegForm(d.seg_profile),
        "sc": ScForm(d.sc_encoding),
        "sr": report,
        "gsps": GspsForm(),
    }
    forms = [of_kind[kind] for kind in dict.fromkeys(d.results)]
    if d.heat_map:
        forms.append(ScForm(d.sc_encoding, is_heat_map=True))
    return tuple(Variant(form, d.label) for form in forms)


def contexts(destination: DestinationSettings) -> tuple[Context, ...]:
    """The presentation contexts that are proposed to ``destination`` in the course of time, each once."""
    chosen = [context(variant.form) for variant in wanted(destination)]
    if destination.not_analysed:
        chosen.append(context(NotAnalysedForm(destination.sr_class)))
    if destination.withdraw == "iocm" and not destination.is_only_asked:
        chosen.append(REJECTION_NOTE)
    return tuple(dict.fromkeys(chosen))


def context(form: ResultForm) -> Context:
    """The SOP class and the one transfer syntax that an object is stored in, which is all that is proposed for it.

    The stored bytes are sent, and any other transfer syntax would be a re-encoding.
    """
    match form:
        case SegForm():
            return SegmentationStorage, ExplicitVRLittleEndian
        case ScForm():
            return SecondaryCaptureImageStorage, JPEGBaseline8Bit if form.encoding == "jpeg" else ExplicitVRLittleEndian
        case SrForm() | NotAnalysedForm():
            return _SR_CLASSES[form.sr_class], ExplicitVRLittleEndian
        case GspsForm():
            return GrayscaleSoftcopyPresentationStateStorage, ExplicitVRLittleEndian
        case KoForm():
            return REJECTION_NOTE
