"""Section ``series``: how the series of the results are numbered and described."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from pydantic import Field

from chexnode.settings.base import Section
from chexnode.vocabulary.series import OUR_NAMES, SeriesName, SeriesNames

_Number = Annotated[int, Field(ge=0, le=2**31 - 1)]  # IS, PS3.5 section 6.2
_Description = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^\\\x00-\x1f\x7f]+$")]


class SeriesSettings(Section):
    """Series Number and Series Description of the results, for worklists and hanging protocols."""

    seg_number: _Number = Field(OUR_NAMES.seg.number, description="Series Number of Segmentations.")
    seg_description: _Description = Field(OUR_NAMES.seg.description, description="Series Description of Segmentations.")
    sr_number: _Number = Field(OUR_NAMES.sr.number, description="Series Number of Structured Reports.")
    sr_description: _Description = Field(
        OUR_NAMES.sr.description, description="Series Description of Structured Reports."
    )
    not_analysed_number: _Number = Field(
        OUR_NAMES.not_analysed.number, description="Series Number of the reports of what was not analysed."
    )
    not_analysed_description: _Description = Field(
        OUR_NAMES.not_analysed.description, description="Series Description of the reports of what was not analysed."
    )
    sc_number: _Number = Field(OUR_NAMES.sc.number, description="Series Number of Secondary Captures.")
    sc_description: _Description = Field(
        OUR_NAMES.sc.description, description="Series Description of Secondary Captures."
    )
    heat_number: _Number = Field(OUR_NAMES.heat.number, description="Series Number of heat maps.")
    heat_description: _Description = Field(OUR_NAMES.heat.description, description="Series Description of heat maps.")
    gsps_number: _Number = Field(OUR_NAMES.gsps.number, description="Series Number of presentation states.")
    gsps_description: _Description = Field(
        OUR_NAMES.gsps.description, description="Series Description of presentation states."
    )

    @property
    def names(self) -> SeriesNames:
        """Number and description of the series of each kind of result, by kind."""
        return SeriesNames(
            **{
                field.name: SeriesName(
                    getattr(self, f"{field.name}_number"), getattr(self, f"{field.name}_description")
                )
                for field in fields(SeriesNames)
            }
        )
