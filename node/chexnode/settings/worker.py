"""Section ``worker``: one worker process."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chexnode.settings.base import Section


class WorkerSettings(Section):
    """One worker process."""

    batch_size: int = Field(8, ge=1, le=256, description="Images claimed and inferred together.")
    decoders: int = Field(2, ge=1, le=64, description="Sandboxed decoding processes per worker.")
    queues: tuple[Literal["infer", "deliver"], ...] = Field(
        ("infer", "deliver"), min_length=1, description="What this worker does."
    )
    max_attempts: int = Field(5, ge=1, description="Transient failures of one job before it becomes FAILED.")
    max_crashes: int = Field(3, ge=1, description="Times a job may take its worker down before it becomes FAILED.")
