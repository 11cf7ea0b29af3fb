"""Section ``limits``: bounds on whatever a stranger sends."""

from __future__ import annotations

from pydantic import Field

from chexnode.settings.base import Section


class LimitSettings(Section):
    """Bounds on whatever a stranger sends."""

    max_object_mb: int = Field(256, ge=1, description="Largest data set accepted by C-STORE, in MB.")
    max_associations: int = Field(32, ge=1, description="Negotiated associations at once.")
    max_associations_per_address: int = Field(16, ge=1, description="Connections at once from one address.")
    max_elements: int = Field(20_000, ge=100, description="Data elements in one header, items of sequences included.")
    max_nesting: int = Field(64, ge=1, le=400, description="Depth of nested sequences in one header.")
    negotiation_seconds: float = Field(10, gt=0, description="A new connection must have negotiated by then (ARTIM).")
    idle_seconds: float = Field(60, gt=0, description="An association silent for this long is aborted.")
    min_kb_per_second: float = Field(
        10, gt=0, description="A message that falls idle_seconds behind this rate is aborted, however alive its sender."
    )
    inflate_mb: int = Field(512, ge=1, description="Largest inflated size of a deflated data set, in MB.")
    decode_seconds: float = Field(20, gt=0, description="CPU and wall time for decoding one image.")
    decode_memory_mb: int = Field(1536, ge=256, description="Address space one decode may take, in MB.")
    max_pixels: int = Field(64_000_000, ge=4096, description="Rows times Columns of an image that is analysed.")
