"""Tables ``[[rule]]``: what a site decides of its own images; the first rule that matches decides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chexnode.settings.base import Section

Pattern = Annotated[str, Field(min_length=1, max_length=128)]
"""Any case; ``*`` stands for any characters, ``?`` for one."""

CONDITIONS = ("station", "institution", "manufacturer", "modality", "description", "calling_ae_title")


class RuleSettings(Section):
    """What a site decides of its own images. All conditions that are given must hold."""

    name: str = Field(min_length=1, max_length=64, description="What reports and tables call it.")
    station: Pattern | None = Field(None, description="Station Name; any case, `*` for any characters, `?` for one.")
    institution: Pattern | None = Field(None, description="Institution Name, likewise.")
    manufacturer: Pattern | None = Field(None, description="Manufacturer, likewise.")
    modality: Pattern | None = Field(None, description="Modality, likewise.")
    description: Pattern | None = Field(
        None, description="Study or Series Description or Protocol Name, likewise; `*TRAUMA*` finds a word."
    )
    calling_ae_title: Pattern | None = Field(None, description="AE title that the image came from, likewise.")
    action: Literal["gate", "analyse", "refuse"] = Field(
        "gate",
        description="`gate`: as without the rule; `analyse`: whatever the header says of view, part, age, species and "
        "processing, which is noted; `refuse`: not analysed, for the rule's `reason`.",
    )
    reason: str = Field("", max_length=128, description="Why `refuse` refuses, for reports and tables.")
    urgent: bool = Field(False, description="Analyse before all that is routine.")
    destinations: tuple[str, ...] | None = Field(None, description="Names of those that get results; else as usual.")

    @model_validator(mode="after")
    def _says_something(self) -> RuleSettings:
        if all(getattr(self, condition) is None for condition in CONDITIONS):
            raise ValueError(f"rule {self.name!r} needs a condition: {', '.join(CONDITIONS)}")
        if (self.action == "refuse") != bool(self.reason):
            raise ValueError(f"rule {self.name!r}: a reason belongs to action refuse, and to no other")
        if self.action == "refuse" and (self.urgent or self.destinations is not None):
            raise ValueError(f"rule {self.name!r}: what is refused is not urgent and goes nowhere")
        return self
