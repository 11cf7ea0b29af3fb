"""Section ``model``: what analyses the images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chexnode.settings.base import Section


class ModelSettings(Section):
    """What analyses the images."""

    bundle: str = Field("chexnomaly", description="Name of a shipped bundle, or the path of a bundle folder.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    operating_point: Literal["second_reader", "triage"] = Field(
        "second_reader", description="Which of the bundle's operating points decides abnormal."
    )
