"""The layouts that can be read, by name, and the one way from a folder to a collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chextrain.data import ddad, generic, nih, phantom, rsna, vinbigdata, vindr
from chextrain.data.build import Built, build, usable
from chextrain.data.cases import Collection
from chextrain.data.kinds import Consensus, Format
from chextrain.data.rows import BadData, Listing, groups, sizes

Reader = Callable[[Path, Mapping[str, tuple[int, int]], Mapping[str, str]], Listing]
READERS: Mapping[Format, Reader] = {
    Format.VINDR: vindr.listing,
    Format.VINBIGDATA: vinbigdata.listing,
    Format.RSNA: rsna.listing,
    Format.NIH: lambda folder, sizes, groups: nih.listing(folder),
    Format.GENERIC: generic.listing,
    Format.DDAD: ddad.listing,
}


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data set, and how it is to be read."""

    format: Format
    data: Path | None = None
    """Folder, or for ``generic`` perhaps a file; phantoms need none."""
    consensus: Consensus = Consensus.SOFT
    split_seed: int = 0
    sizes: Path | None = None
    """CSV of the sizes that boxes are given in; see :func:`chextrain.data.rows.sizes`."""
    groups: Path | None = None
    """CSV or JSON of the patients; see :func:`chextrain.data.rows.groups`."""

    def listing(self) -> Listing:
        """The rows of the data set; raises ``BadData``."""
        if self.format is Format.PHANTOM:
            raise BadData("phantoms are drawn, not read")
        if self.data is None:
            raise BadData(f"--format {self.format} needs --data")
        if self.format is Format.NIH and (self.sizes or self.groups):
            raise BadData("the manifest of --format nih names sizes and patients: no --sizes, no --groups")
        if not self.data.exists():
            raise BadData(f"{self.data}: no such folder")
        return READERS[self.format](self.data, sizes(self.sizes), groups(self.groups))

    def built(self, listing: Listing | None = None, *, probe: bool = True) -> Built:
        """The cases of ``listing`` (else: of this source's), and every bad row by name; raises ``BadData``.

        With ``probe=False`` no image is opened: the layout must declare all sizes.
        """
        if self.format is Format.PHANTOM:
            return Built(phantom.collection(), (), 0, 0, 0)
        return build(listing or self.listing(), self.consensus, self.split_seed, probe=probe)

    def collection(self) -> Collection:
        """The data set, to be learnt from or scored; raises ``BadData`` if any of its rows cannot be used."""
        return usable(self.built(probe=self.format is not Format.NIH))  # NIH's manifest declares the sizes
