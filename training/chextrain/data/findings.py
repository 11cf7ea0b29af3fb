"""Names of findings, as VinDr-CXR spells them, and the one way in which a name is matched.

``VINDR`` are the 14 of the Kaggle release, on which CheX-Nomaly's specialised models are trained; ``LOCAL`` are all 22
that PhysioNet's release draws boxes for (Nguyen et al., Scientific Data 2022, table 2). The eight more are what a model
trained on the 14 has not seen, on the same scanners and by the same readers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

VINDR = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
MORE_LOCAL = (
    "Clavicle fracture",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Rib fracture",
)
LOCAL = (*VINDR, *MORE_LOCAL)
NO_FINDING = "No finding"


class UnknownFinding(ValueError):
    """A name that is none of the known ones; the message names the nearest."""


def normalise(name: str, known: Iterable[str] = LOCAL) -> str:
    """The spelling in ``known`` of ``name``, whatever its capitals and outer blanks; raises ``UnknownFinding``.

    The paper writes "Aortic Enlargement" where the data say "Aortic enlargement": an exact comparison loses the class.
    """
    spellings = {spelling.casefold(): spelling for spelling in known}
    wanted = name.strip().casefold()
    if wanted not in spellings:
        near = difflib.get_close_matches(wanted, spellings, n=1, cutoff=0)
        hint = f"; did you mean {spellings[near[0]]!r}?" if near else ""
        raise UnknownFinding(f"unknown finding {name!r}{hint}")
    return spellings[wanted]
