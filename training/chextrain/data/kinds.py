"""The words by which a data set is named on the command line; nothing heavy is imported here."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """Layouts of data sets that can be read; docs/how-to/train-on-your-data.md shows each."""

    VINDR = "vindr"
    VINBIGDATA = "vinbigdata"
    RSNA = "rsna"
    NIH = "nih"
    GENERIC = "generic"
    DDAD = "ddad"
    PHANTOM = "phantom"


class Consensus(StrEnum):
    """How the boxes of several readers become one truth."""

    UNION = "union"
    """Every box of every reader (the code behind the paper)."""
    VOTE = "vote"
    """Pixels that more than half of the readers marked."""
    SOFT = "soft"
    """Every box is scored; what is learnt is the share of the readers who marked a pixel."""
    WBF = "wbf"
    """Weighted boxes fusion, per finding."""
    CLUSTER = "cluster"
    """Mean box of each cluster of overlapping boxes of different readers, per finding."""
