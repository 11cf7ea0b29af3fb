"""Section ``gate``: which images are analysed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from chexnode.settings.base import Section


class GateSettings(Section):
    """What is analysed."""

    min_age_years: int = Field(0, ge=0, le=150, description="Patients known to be younger are not analysed.")
    modalities: tuple[str, ...] = Field(("CR", "DX", "RG"), min_length=1, description="Modalities that are analysed.")
    secondary_capture: bool = Field(True, description="Analyse single-frame monochrome Secondary Captures.")
    require_view: bool = Field(False, description="Refuse, instead of note, an image without View Position.")
    require_body_part: bool = Field(False, description="Refuse, instead of note, an image without Body Part Examined.")
    child_years: int = Field(16, ge=0, le=150, description="Patients known to be younger are noted on the results.")
    out_of_scope: Literal["refuse", "note"] = Field(
        "refuse",
        description="A page of writing, or what looks like no chest: refused, or noted and not evaluated.",
    )
    out_of_distribution: Literal["note", "refuse"] = Field(
        "note",
        description="What the model itself finds unlike the images that it learnt from: noted and never negative, "
        "or refused as out-of-scope.",
    )
    lexicon: Path | None = Field(None, description="TOML file of a site's own words for views, parts and the like.")
