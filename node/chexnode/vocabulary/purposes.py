"""What a job is for, and when its turn comes."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Purpose(StrEnum):
    """What a job is for."""

    IMAGE = "image"
    """A version of an image came: its results are delivered."""
    REANALYSIS = "reanalysis"
    """An image that has an answer is analysed again: the new results take the place of the old ones."""
    BESIDE = "beside"
    """An image that has an answer is analysed again: the old results stay valid beside the new ones."""
    ROLLBACK = "rollback"
    """The results of an earlier model are made again, in place of those of a reanalysis."""
    SHADOW = "shadow"
    """A model is tried on an image: its answer is kept, and nothing is delivered."""


class Urgency(IntEnum):
    """In which order jobs are claimed."""

    URGENT = 0
    """The request said so."""
    ROUTINE = 1
    """All other images that were received."""
    SHADOW = 2
    """Received images, for a model that delivers nothing."""
    BACKGROUND = 3
    """What is analysed again: only in the hours that the settings give to it."""


#: Images that were received wait for these; nobody waits for the others.
AWAITED = Urgency.ROUTINE
