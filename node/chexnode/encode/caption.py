"""The words of a result: what was found, by whom, and what it is not for; no answer never looks like "no finding".

The Secondary Captures write them above and below the radiograph, the presentation state lays them over it, and the
report holds them as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chexmodels.finding import Findings, Region
from chexnode.encode.provenance import DISCLAIMER, Provenance
from chexnode.vocabulary.notes import Note

#: Outline: the recommended display colour of the Segmentation.
COLOUR = (255, 64, 64)
#: Numbers at the regions, and words to be heeded.
AMBER = (255, 191, 0)
#: That nothing was marked: as visible as a finding, and no green light.
BLUE = (120, 200, 255)
WHITE = (235, 235, 235)
_MOST_LISTED = 8

WHAT_IT_IS = "AI: looks for any abnormality, does not name it"
NAMES_IT = "AI: scores findings by name, outlines nothing"
DOES_BOTH = "AI: looks for any abnormality, and scores findings by name for the image as a whole"
#: Notes that head the picture, and why; the reader has to look before anything else.
DOUBTS: Mapping[str, str] = {
    Note.POLARITY_DOUBTFUL: "the picture looks inverted (black and white exchanged)",
    Note.SCOPE_DOUBTFUL: "the picture does not look like a frontal chest radiograph",
    Note.ORIENTATION_DOUBTFUL: "the picture looks upside down or turned",
    Note.VIEW_CONTRADICTORY: "the header contradicts itself on the view",
    Note.BODY_PART_CONTRADICTORY: "the header contradicts itself on the part of the body",
    Note.POLARITY_CONTRADICTORY: "the header contradicts itself on black and white",
}
#: What else is noted, in words.
NOTED: Mapping[str, str] = {
    Note.VIEW_UNKNOWN: "view not stated",
    Note.BODY_PART_UNKNOWN: "part of the body not stated",
    Note.AGE_UNKNOWN: "age not known",
    Note.CHILD: "patient is a child, the AI learnt from adults",
    Note.BURNED_IN: "text in the picture",
    Note.LOSSY: "lossy compression",
    Note.SPACING_UNKNOWN: "pixel size not known",
    Note.NOT_CONFORMANT: "data set not as DICOM has it, image whole",
    Note.WINDOW_IGNORED: "display window unusable and ignored",
    Note.WINDOW_CLIPS: "display window cuts off part of the anatomy",
    Note.MODALITY_LUT_IGNORED: "modality transformation unusable and ignored",
    Note.SITE_RULE: "analysed by a rule of this site, which the header speaks against",
    Note.SHUTTER_APPLIED: "the display shutter was applied",
    Note.CODESTREAM_DIFFERS: "pixels and header differ on sign or depth",
    Note.MODELS_DISAGREE: "a second AI differs on whether anything is abnormal",
    Note.MODEL_OUTPUT_INVALID: "the AI gave no usable answer",
    Note.OUT_OF_DISTRIBUTION: "unlike the images that the AI learnt from",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of words; it is wrapped to the picture's width."""

    text: str
    colour: tuple[int, int, int] = WHITE


@dataclass(frozen=True, slots=True)
class Caption:
    """The words above and below the radiograph."""

    above: tuple[Line, ...]
    below: tuple[Line, ...]


def has_finding(findings: Findings) -> bool:
    """Whether there is something to outline and to segment: judged abnormal, and localised."""
    return findings.abnormal is True and findings.mask is not None and bool(findings.mask.any())


def caption(findings: Findings, provenance: Provenance, described: str = "") -> Caption:
    """Say what was found, by whom, and what it is not for. "Not evaluated" never looks like "no finding".

    ``described``: which image it is, on results that may be looked at without it.
    """
    doubts = [DOUBTS[note] for note in findings.notes if note in DOUBTS]
    above = [Line(DISCLAIMER, AMBER)]
    if doubts:
        above.append(Line(f"DOUBTFUL: {'; '.join(doubts)}", AMBER))
    above.append(Line(f"{_what_it_is(findings)}. {provenance.model_name} {provenance.model_version}"))
    if described:
        above.append(Line(f"Radiograph: {described}"))
    answer = _answer(findings, provenance, doubts)
    return Caption(tuple(above), (*answer, *classified(findings, provenance), *noted(findings)))


def present(findings: Findings, provenance: Provenance) -> dict[str, bool]:
    """Class -> whether it is called present, highest score first; only classes with a threshold, of an answer."""
    if findings.abnormal is None:
        return {}
    thresholds = provenance.class_thresholds
    ranked = sorted(findings.classes, key=lambda name: -findings.classes[name])
    return {name: findings.classes[name] >= thresholds[name] for name in ranked if name in thresholds}


def classified(findings: Findings, provenance: Provenance) -> tuple[Line, ...]:
    """Say the scores by name, highest first; those called present are marked."""
    if findings.abnormal is None or not findings.classes:
        return ()
    called = present(findings, provenance)
    ranked = sorted(findings.classes.items(), key=lambda item: -item[1])
    listed = [f"{name} {_percent(score)}{' (present)' if called.get(name) else ''}" for name, score in ranked]
    more = f", and {len(listed) - _MOST_LISTED} lower" if len(listed) > _MOST_LISTED else ""
    return (Line(f"Scores by name - {', '.join(listed[:_MOST_LISTED])}{more}"),)


def _what_it_is(findings: Findings) -> str:
    if not findings.classes:
        return WHAT_IT_IS
    return NAMES_IT if findings.mask is None else DOES_BOTH


def _answer(findings: Findings, provenance: Provenance, doubts: Sequence[str]) -> list[Line]:
    if findings.abnormal is None:
        reasons = doubts or [_words(note) for note in findings.notes if note not in _HARMLESS]
        return [Line(f"NOT EVALUATED: {'; '.join(reasons) or 'no reason given'}", AMBER)]
    score = image_score(findings, provenance)
    names = ", ".join(name for name, is_there in present(findings, provenance).items() if is_there)
    if not findings.abnormal:
        missed = "Small or faint abnormalities are missed."
        verdict = "NO ABNORMALITY MARKED" if findings.mask is not None else "NO ABNORMALITY BY THE IMAGE SCORE"
        answer = Line(f"{verdict}, but present by name: {names}", AMBER) if names else Line(verdict, BLUE)
        return [answer, Line(f"{score} {missed}" if score else missed)]
    if not has_finding(findings):
        return [Line(f"ABNORMAL{_by_name(findings, names)}", COLOUR), Line(score)]
    listed = [numbered(n, region) for n, region in enumerate(findings.regions[:_MOST_LISTED], 1)]
    if len(findings.regions) > _MOST_LISTED:
        listed.append(f"and {len(findings.regions) - _MOST_LISTED} more")
    below = [Line(_count(len(findings.regions)), COLOUR)]
    return [*below, Line(f"{score} Peak by region - {', '.join(listed)}" if listed else score)]


def _by_name(findings: Findings, names: str) -> str:
    """Say what is abnormal where nothing is outlined; ``names`` are the classes called present."""
    if names:
        return f": {names}"
    return ", but no finding by name reaches its threshold" if findings.classes else ", but nothing can be outlined"


def image_score(findings: Findings, provenance: Provenance) -> str:
    """Say what the image scored as a whole, beside the threshold that decided.

    Empty for an image without a finding whose score reaches the threshold, or whose threshold is not known: a number
    would say the contrary of the words.
    """
    threshold = provenance.image_threshold
    if findings.abnormal is False and (threshold is None or findings.score >= threshold):
        return ""
    beside = "" if threshold is None else f" (threshold {_percent(threshold)})"
    return f"Image score {_rounded(findings.score, threshold)}{beside}."


def noted(findings: Findings) -> tuple[Line, ...]:
    """Say what was noticed on the way and is no doubt of the whole, if anything."""
    told = DOUBTS if findings.abnormal is not None else {n for n in findings.notes if n not in _HARMLESS}
    others = list(dict.fromkeys(_words(note) for note in findings.notes if note not in told))
    return (Line(f"Noted: {', '.join(others)}"),) if others else ()


#: Are no reason why an image was not evaluated.
_HARMLESS = frozenset(NOTED) - {Note.MODEL_OUTPUT_INVALID, "out-of-distribution"}


def _words(note: str) -> str:
    return NOTED.get(note, note)


def numbered(number: int, region: Region) -> str:
    """Return what stands at a region: its number, in the order of ``Findings.regions``, and its peak."""
    return f"{number}: {_percent(region.peak)}"


def _count(regions: int) -> str:
    return "1 ABNORMAL REGION MARKED" if regions == 1 else f"{regions} ABNORMAL REGIONS MARKED"


def _percent(score: float) -> str:
    return f"{score:.0%}"


def _rounded(score: float, threshold: float | None) -> str:
    """Return the score in whole per cent, with a decimal where it would else look like the threshold."""
    if threshold is not None and _percent(score) == _percent(threshold):
        return f"{score:.1%}"
    return _percent(score)
