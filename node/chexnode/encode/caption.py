"""The words of a result: what was found, by whom, and what it is not for; no answer never looks like "no finding".

The Secondary Captures write them above and below the radiograph, the presentation state lays them over it, and the
report holds them as text.
"""

from __future__ import annotations

from dataclasses import dataclass

from chexmodels.finding import Findings, Region
from chexnode.encode.provenance import DISCLAIMER, Provenance

#: Outline: the recommended display colour of the Segmentation.
COLOUR = (255, 64, 64)
#: Numbers at the regions, and words to be heeded.
AMBER = (255, 191, 0)
WHITE = (235, 235, 235)
_MOST_LISTED = 8


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


def caption(findings: Findings, provenance: Provenance) -> Caption:
    """Say what was found, by whom, and what it is not for. "Not evaluated" never looks like "no finding"."""
    above = (
        Line(DISCLAIMER, AMBER),
        Line(
            f"{provenance.model_name} {provenance.model_version}, weights {provenance.model_digest[:12]}, "
            f"{provenance.operating_point} threshold {provenance.threshold:.3g}"
        ),
    )
    score = image_score(findings)
    if findings.abnormal is None:
        return Caption(above, (Line(f"NOT EVALUATED: {', '.join(findings.notes) or 'no reason given'}", AMBER),))
    if not findings.abnormal:
        below = [Line(f"No finding above threshold. {score}")]
    elif not has_finding(findings):
        below = [Line(f"Score above threshold, nothing localised. {score}", COLOUR)]
    else:
        listed = [numbered(n, region) for n, region in enumerate(findings.regions[:_MOST_LISTED], 1)]
        if len(findings.regions) > _MOST_LISTED:
            listed.append(f"and {len(findings.regions) - _MOST_LISTED} more")
        below = [Line(f"{_count(len(findings.regions))} {score}", COLOUR)]
        if listed:
            below.append(Line(f"Peak score by region - {', '.join(listed)}"))
    return Caption(above, (*below, *noted(findings)))


def image_score(findings: Findings) -> str:
    """Say what the image scored as a whole."""
    return f"Image score {_percent(findings.score)}."


def noted(findings: Findings) -> tuple[Line, ...]:
    """Say what was noticed on the way, if anything."""
    return (Line(f"Noted: {', '.join(findings.notes)}"),) if findings.notes else ()


def numbered(number: int, region: Region) -> str:
    """Return what stands at a region: its number, in the order of ``Findings.regions``, and its peak."""
    return f"{number}: {_percent(region.peak)}"


def _count(regions: int) -> str:
    return "1 region marked." if regions == 1 else f"{regions} regions marked."


def _percent(score: float) -> str:
    return f"{score:.0%}"
