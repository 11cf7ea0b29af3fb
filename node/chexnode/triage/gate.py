"""What is analysed, as a table: one rule a reason or note. Pure; the header part never raises and decodes nothing.

The first rule of :data:`REASONS` that fires decides; all rules of :data:`NOTES` are asked. The tables are the
documentation's source too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from chexmodels.finding import Findings
from chexmodels.stats import PixelStats
from chexnode.settings.gate import GateSettings
from chexnode.settings.rule import RuleSettings
from chexnode.triage import reading
from chexnode.triage.header import Header
from chexnode.triage.lexicon import Lexicon, lexicon
from chexnode.triage.reading import BodyPart, Statement, View
from chexnode.triage.rules import deciding_rule
from chexnode.vocabulary.notes import NEVER_NEGATIVE, NOT_EVALUATED, Note
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Priority, Verdict
from chexnode.vocabulary.states import InstanceState

CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_NOT_ANALYSED, _QUARANTINED = InstanceState.NOT_ANALYSED, InstanceState.QUARANTINED
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = re.compile(r"RGB|YBR_.*|PALETTE COLOR|HSV|ARGB|CMYK|XYB")
#: Leading zeros break PS3.5 9.1 but are common and harmless; anything but digits and dots is not.
_UID = re.compile(r"(?=.{1,64}\Z)\d+(\.\d+)*")


@dataclass(frozen=True, slots=True)
class RuleInput:
    """What the rules look at."""

    header: Header
    gate: GateSettings
    has_pixel_data: bool
    sop_class_uid: str
    """Under which the object was sent; the data set's own where nobody says otherwise."""
    transfer_syntax_uid: str
    max_pixels: int
    words: Lexicon
    view: Statement[View]
    body_part: Statement[BodyPart]
    flaws: Sequence[str]
    """What the reader of the data set read past."""
    rule: RuleSettings | None = None
    """Of the site, that decides on this image."""


Test = Callable[[RuleInput], str | None]
"""Returns a short detail without patient data where the rule fires, None where it does not."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: why an image is not analysed."""

    reason: Reason
    state: InstanceState
    test: Test


@dataclass(frozen=True, slots=True)
class Remark:
    """One row: what is noted about an image that is analysed all the same."""

    note: Note
    test: Callable[[RuleInput], bool]


def _shown(value: str) -> str:
    """``value`` fit for a table: of the repertoire of CS, short, quoted."""
    return repr(re.sub(r"[^A-Z0-9 _.,/\\()-]", "?", value)[:32])


def _invalid_uid(subject: RuleInput) -> str | None:
    for name, tag in (("SOP", 0x00080018), ("Study", 0x0020000D), ("Series", 0x0020000E)):
        if not _UID.fullmatch(subject.header.text(tag)):
            return f"the {name} Instance UID is absent or invalid"
    return None


def _sop_class_mismatch(subject: RuleInput) -> str | None:
    own = subject.header.text(0x00080016)
    if own != subject.sop_class_uid:
        return f"SOP Class UID is {_shown(own)}, it came as {_shown(subject.sop_class_uid)}"
    return None


def _refused_by_rule(subject: RuleInput) -> str | None:
    rule = subject.rule
    return f"rule {rule.name!r}: {rule.reason}" if rule is not None and rule.action == "refuse" else None


def _other_modality(subject: RuleInput) -> str | None:
    modality = subject.header.text(0x00080060)
    allowed = {name.strip().upper() for name in subject.gate.modalities}
    return f"Modality is {_shown(modality)}" if modality and modality not in allowed else None


def _for_processing(subject: RuleInput) -> str | None:
    if subject.sop_class_uid == DX_FOR_PROCESSING:
        return "a DX For Processing object"
    if subject.header.text(0x00080068) == "FOR PROCESSING":
        return "Presentation Intent Type is FOR PROCESSING"
    return None


def _sop_class(subject: RuleInput) -> str | None:
    eligible = {CR_IMAGE, DX_FOR_PRESENTATION} | ({SECONDARY_CAPTURE} if subject.gate.secondary_capture else set())
    return f"SOP Class UID is {_shown(subject.sop_class_uid)}" if subject.sop_class_uid not in eligible else None


def _no_modality(subject: RuleInput) -> str | None:
    return None if subject.header.text(0x00080060) else "Modality is absent"


def _algorithm(subject: RuleInput) -> str | None:
    return reading.algorithm(subject.header, subject.words)


def _processed(subject: RuleInput) -> str | None:
    return reading.processing(subject.header, subject.words)


def _animal(subject: RuleInput) -> str | None:
    return reading.animal(subject.header, subject.words)


def _other_body_part(subject: RuleInput) -> str | None:
    stated = subject.body_part
    if stated.said is not BodyPart.OTHER:
        return None
    named = stated.evidence == "Body Part Examined"
    return f"Body Part Examined is {_shown(subject.header.text(0x00180015))}" if named else stated.evidence


def _lateral(subject: RuleInput) -> str | None:
    return subject.view.evidence if subject.view.said is View.LATERAL else None


def _oblique(subject: RuleInput) -> str | None:
    return subject.view.evidence if subject.view.said is View.OBLIQUE else None


def _under_age(subject: RuleInput) -> str | None:
    age = subject.header.age
    if age is not None and age < subject.gate.min_age_years:
        return f"younger than {subject.gate.min_age_years} years"
    return None


def _is_child(subject: RuleInput) -> bool:
    age = subject.header.age
    return age is not None and age < subject.gate.child_years


def _no_view(subject: RuleInput) -> str | None:
    return "no view is stated" if subject.gate.require_view and subject.view.said is View.UNKNOWN else None


def _no_body_part(subject: RuleInput) -> str | None:
    missing = subject.gate.require_body_part and subject.body_part.said is BodyPart.UNKNOWN
    return "no body part is stated" if missing else None


def _no_pixel_data(subject: RuleInput) -> str | None:
    return None if subject.has_pixel_data else "no Pixel Data"


def _multi_frame(subject: RuleInput) -> str | None:
    if 0x00280008 not in subject.header or subject.header.text(0x00280008) == "":
        return None
    frames = subject.header.integer(0x00280008)
    return None if frames in (0, 1) else "Number of Frames is not 1"


def _colour(subject: RuleInput) -> str | None:
    photometric = subject.header.text(0x00280004)
    return f"Photometric Interpretation is {_shown(photometric)}" if _COLOUR.fullmatch(photometric) else None


def _image_attributes(subject: RuleInput) -> str | None:
    """Image Pixel attributes that no decoder may be given (PS3.3 C.7.6.3)."""
    header = subject.header
    rows, columns = header.unsigned(0x00280010), header.unsigned(0x00280011)
    allocated, stored, high = (header.unsigned(tag) for tag in (0x00280100, 0x00280101, 0x00280102))
    if not rows or not columns:
        return "Rows or Columns is absent or 0"
    if rows * columns > subject.max_pixels:
        return f"{rows} x {columns} pixels are more than the limit"
    if header.text(0x00280004) not in _MONOCHROME:
        return f"Photometric Interpretation is {_shown(header.text(0x00280004))}"
    if header.unsigned(0x00280002) != 1:
        return "Samples per Pixel is not 1"
    if allocated not in (8, 16, 32):
        return f"Bits Allocated is {allocated}"
    if stored is None or not 1 <= stored <= allocated:
        return f"Bits Stored is {stored}, Bits Allocated {allocated}"
    if high is not None and high >= allocated:
        return f"High Bit is {high}, Bits Allocated {allocated}"
    if header.unsigned(0x00280103) not in (0, 1):
        return "Pixel Representation is absent or invalid"
    return None


#: Why an image is not analysed, in the order in which the reasons are asked.
REASONS: tuple[Rule, ...] = (
    Rule(Reason.INVALID_UID, _QUARANTINED, _invalid_uid),
    Rule(Reason.SOP_CLASS_MISMATCH, _QUARANTINED, _sop_class_mismatch),
    Rule(Reason.SITE_RULE, _NOT_ANALYSED, _refused_by_rule),
    Rule(Reason.MODALITY, _NOT_ANALYSED, _other_modality),
    Rule(Reason.FOR_PROCESSING, _NOT_ANALYSED, _for_processing),
    Rule(Reason.SOP_CLASS, _NOT_ANALYSED, _sop_class),
    Rule(Reason.MODALITY, _QUARANTINED, _no_modality),
    Rule(Reason.AI_RESULT, _NOT_ANALYSED, _algorithm),
    Rule(Reason.PROCESSED, _NOT_ANALYSED, _processed),
    Rule(Reason.NON_HUMAN, _NOT_ANALYSED, _animal),
    Rule(Reason.BODY_PART, _NOT_ANALYSED, _other_body_part),
    Rule(Reason.LATERAL_VIEW, _NOT_ANALYSED, _lateral),
    Rule(Reason.OBLIQUE_VIEW, _NOT_ANALYSED, _oblique),
    Rule(Reason.BODY_PART_UNKNOWN, _NOT_ANALYSED, _no_body_part),
    Rule(Reason.VIEW_UNKNOWN, _NOT_ANALYSED, _no_view),
    Rule(Reason.UNDER_AGE, _NOT_ANALYSED, _under_age),
    Rule(Reason.NO_PIXEL_DATA, _NOT_ANALYSED, _no_pixel_data),
    Rule(Reason.MULTI_FRAME, _NOT_ANALYSED, _multi_frame),
    Rule(Reason.COLOUR, _NOT_ANALYSED, _colour),
    Rule(Reason.IMAGE_ATTRIBUTES, _QUARANTINED, _image_attributes),
)

#: What the header says, and a rule of the site may know better.
OVERRULED = frozenset(
    {
        Reason.PROCESSED,
        Reason.NON_HUMAN,
        Reason.BODY_PART,
        Reason.LATERAL_VIEW,
        Reason.OBLIQUE_VIEW,
        Reason.BODY_PART_UNKNOWN,
        Reason.VIEW_UNKNOWN,
        Reason.UNDER_AGE,
    }
)

#: What is noted from the header of an image that is analysed.
NOTES: tuple[Remark, ...] = (
    Remark(Note.VIEW_UNKNOWN, lambda subject: subject.view.said is View.UNKNOWN),
    Remark(Note.BODY_PART_UNKNOWN, lambda subject: subject.body_part.said is BodyPart.UNKNOWN),
    Remark(Note.VIEW_CONTRADICTORY, lambda subject: bool(subject.view.contradicted)),
    Remark(Note.BODY_PART_CONTRADICTORY, lambda subject: bool(subject.body_part.contradicted)),
    Remark(
        Note.CHILD, lambda subject: subject.header.age is not None and subject.header.age < subject.gate.child_years
    ),
    Remark(Note.AGE_UNKNOWN, lambda subject: subject.header.age is None),
    Remark(Note.ORIENTATION_DOUBTFUL, lambda subject: subject.view.said is View.DECUBITUS),
    Remark(Note.BURNED_IN, lambda subject: subject.header.text(0x00280301) == "YES"),
    Remark(Note.LOSSY, lambda subject: subject.header.is_lossy(subject.transfer_syntax_uid)),
    Remark(Note.SPACING_UNKNOWN, lambda subject: not subject.header.spacing_is_known()),
    Remark(Note.NOT_CONFORMANT, lambda subject: bool(_flaws(subject))),
)


def triage_header(
    ds: Dataset,
    gate: GateSettings,
    *,
    has_pixel_data: bool,
    max_pixels: int,
    sop_class_uid: str = "",
    transfer_syntax_uid: str = "",
    flaws: Sequence[str] = (),
    rules: Sequence[RuleSettings] = (),
    calling_ae_title: str = "",
) -> Verdict:
    """Decide from the header (parsed, without Pixel Data) whether the image is analysed.

    ``sop_class_uid``: under which it was sent or filed; empty: the data set's own. ``flaws``: what was read past, as
    :class:`chexmodels.dicom.elements.Scan` has it. ``rules``: of the site; ``calling_ae_title``: who
    sent it. Never raises, whatever ``ds`` holds;
    ``detail`` never quotes patient data. Takes less than a millisecond.
    """
    header, words = Header(ds), lexicon(gate.lexicon)
    subject = RuleInput(
        header,
        gate,
        has_pixel_data,
        (sop_class_uid or header.text(0x00080016)).strip(" \0"),
        transfer_syntax_uid.strip(" \0"),
        max_pixels,
        words,
        reading.view(header, words),
        reading.body_part(header, words),
        flaws,
        deciding_rule(rules, ds, calling_ae_title),
    )
    overruled: list[str] = []
    for rule in REASONS:
        detail = rule.test(subject)
        if detail is None:
            continue
        if subject.rule is None or subject.rule.action != "analyse" or rule.reason not in OVERRULED:
            return Verdict(rule.state, rule.reason, detail)
        overruled.append(f"despite {rule.reason.value} ({detail})")
    notes = tuple(remark.note for remark in NOTES if remark.test(subject))
    return Verdict(
        InstanceState.ANALYSABLE,
        detail="; ".join((*_ruled(subject.rule), *overruled, _evidence(subject))),
        notes=(*notes, Note.SITE_RULE) if overruled else notes,
        priority=Priority.URGENT if subject.rule is not None and subject.rule.urgent else _priority(header),
    )


def _ruled(rule: RuleSettings | None) -> tuple[str, ...]:
    return () if rule is None else (f"rule {rule.name!r}",)


def _evidence(subject: RuleInput) -> str:
    """Say what an image that is analysed was taken for, and by which words."""
    view, part = subject.view, subject.body_part
    said = (
        f"{view.said.value} by {view.evidence}" if view.evidence else "view not stated",
        f"{part.said.value} by {part.evidence}" if part.evidence else "body part not stated",
    )
    contradicted = (f"but {each}" for each in (view.contradicted, part.contradicted) if each)
    return "; ".join((*said, *contradicted, *(f"read past: {each}" for each in _flaws(subject))))


def _flaws(subject: RuleInput) -> tuple[str, ...]:
    """What breaks a rule and does not touch the image."""
    return (*subject.flaws, *(("Number of Frames 0",) if subject.header.integer(0x00280008) == 0 else ()))


def _priority(header: Header) -> Priority:
    """Urgent where the request was (Requested Procedure Priority, Study Priority ID)."""
    said = {header.text(0x00401003), header.text(0x0032000C)}
    return Priority.URGENT if said & {"STAT", "HIGH", "URGENT"} else Priority.ROUTINE


SMALLEST_SIDE = 64
FEWEST_LEVELS = 8
"""Grey values of the least contrasted picture that is analysed; the lowest of 2,411 radiographs has 112."""
LEAST_AUTOCORRELATION = 0.5
"""Halfway between white noise (0) and the noisiest of 2,411 radiographs (0.93)."""
MOST_ENTROPY_OF_A_PAGE, FEWEST_EDGES_OF_A_PAGE = 4.0, 0.012
"""Of pages, 0.9 bits and 0.07; radiographs have 5.1 bits and more, and 0.004 at most."""
LEAST_LIKENESS = 0.15
"""Correlation with the mean frontal chest, however turned or inverted; radiographs have 0.28 and more."""
TURNED_MARGIN = 0.15
"""How much more a picture must look like a chest when turned than as it is."""


def _looks_inverted(stats: PixelStats) -> bool:
    likeness = (stats.upright, stats.flipped, *stats.turned)
    return -min(likeness) > max(likeness)


def _looks_turned(stats: PixelStats) -> bool:
    sign = -1 if _looks_inverted(stats) else 1
    return max(sign * turned for turned in (stats.flipped, *stats.turned)) - sign * stats.upright > TURNED_MARGIN


def _is_a_page(stats: PixelStats) -> bool:
    return stats.entropy < MOST_ENTROPY_OF_A_PAGE and stats.edges > FEWEST_EDGES_OF_A_PAGE


def _looks_like_no_chest(stats: PixelStats) -> bool:
    return max(map(abs, (stats.upright, stats.flipped, *stats.turned))) < LEAST_LIKENESS


#: Why decoded pixels are not analysed, in the order in which the reasons are asked.
PIXEL_REASONS: tuple[tuple[Reason, Callable[[PixelStats], bool]], ...] = (
    (Reason.TOO_SMALL, lambda stats: min(stats.rows, stats.columns) < SMALLEST_SIDE),
    (Reason.CONSTANT, lambda stats: stats.levels < FEWEST_LEVELS),
    (Reason.OUT_OF_SCOPE, _is_a_page),
    (Reason.NOISE, lambda stats: stats.autocorrelation < LEAST_AUTOCORRELATION),
)

#: What is noted about decoded pixels that are analysed.
PIXEL_NOTES: tuple[tuple[Note, Callable[[PixelStats], bool]], ...] = (
    (Note.POLARITY_DOUBTFUL, _looks_inverted),
    (Note.ORIENTATION_DOUBTFUL, _looks_turned),
    (Note.SCOPE_DOUBTFUL, lambda stats: _is_a_page(stats) or _looks_like_no_chest(stats)),
)


def triage_pixels(stats: PixelStats, gate: GateSettings | None = None) -> tuple[Reason | None, tuple[Note, ...]]:
    """Decide from the decoded picture: a reason to refuse it, or None and what is noted.

    ``gate``: whether a page of writing is refused or noted; None refuses it.
    """
    for reason, fires in PIXEL_REASONS:
        noted = reason is Reason.OUT_OF_SCOPE and gate is not None and gate.out_of_scope == "note"
        if fires(stats) and not noted:
            return reason, ()
    return None, tuple(note for note, fires in PIXEL_NOTES if fires(stats))


def settle(findings: Findings) -> Findings:
    """Take back an answer that its own notes make doubtful: no negative, or none at all (``abnormal=None``)."""
    noted = set(findings.notes)
    if noted & NOT_EVALUATED or (noted & NEVER_NEGATIVE and findings.abnormal is False):
        mask = None if findings.mask is None else np.zeros_like(findings.mask)
        return replace(findings, abnormal=None, mask=mask, regions=())
    return findings
