"""How the series of the results are numbered and called; a site may have other names than these by setting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeriesName:
    """One kind of result's series."""

    number: int
    """Series Number (0020,0011)."""
    description: str
    """Series Description (0008,103E), at most 40 characters: the label and a note must fit beside it."""


@dataclass(frozen=True, slots=True)
class SeriesNames:
    """Each kind has a series of its own: viewers list one SEG per series. The numbers are high, and so come last."""

    seg: SeriesName = SeriesName(9001, "AI Segmentation - NOT FOR DIAGNOSTIC USE")
    sr: SeriesName = SeriesName(9101, "AI Report - NOT FOR DIAGNOSTIC USE")
    not_analysed: SeriesName = SeriesName(9102, "AI Not Analysed - NOT FOR DIAGNOSTIC USE")
    sc: SeriesName = SeriesName(9201, "AI Overlay - NOT FOR DIAGNOSTIC USE")
    heat: SeriesName = SeriesName(9202, "AI Heat Map - NOT FOR DIAGNOSTIC USE")
    gsps: SeriesName = SeriesName(9301, "AI Outlines - NOT FOR DIAGNOSTIC USE")


OUR_NAMES = SeriesNames()
"""Where the settings say nothing else."""
