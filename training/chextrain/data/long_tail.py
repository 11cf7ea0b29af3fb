"""Which classes are rare: the article's forty, and a rule for any others.

MIMIC-CXR's long-tailed labels (Holste et al., CXR-LT 2024) are 40; CXR-CML reports 28 as common and 12 as rare. The
article names none of the 12; these are the ones that the authors' published evaluation lists.
"""

from __future__ import annotations

from collections.abc import Mapping

COMMON = (
    "Adenopathy",
    "Atelectasis",
    "Calcification of the Aorta",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged Cardiomediastinum",
    "Fissure",
    "Fracture",
    "Granuloma",
    "Hernia",
    "Infiltration",
    "Lung Lesion",
    "Lung Opacity",
    "Mass",
    "Nodule",
    "Normal",
    "Pleural Effusion",
    "Pleural Thickening",
    "Pneumonia",
    "Pneumothorax",
    "Pulmonary Embolism",
    "Rib Fracture",
    "Subcutaneous Emphysema",
    "Support Devices",
    "Tortuous Aorta",
    "Tuberculosis",
)
RARE = (
    "Azygos Lobe",
    "Clavicle Fracture",
    "Fibrosis",
    "Hydropneumothorax",
    "Infarction",
    "Kyphosis",
    "Lobar Atelectasis",
    "Pleural Other",
    "Pneumomediastinum",
    "Pneumoperitoneum",
    "Pulmonary Hypertension",
    "Round(ed) Atelectasis",
)
SHARE = len(RARE) / (len(RARE) + len(COMMON))
"""Share of the classes that are called rare elsewhere."""


def rare(counts: Mapping[str, int]) -> frozenset[str]:
    """Which of the classes are rare, from how many training images each is on.

    Of the article's forty its twelve. Elsewhere the least frequent 30 %, as 12 of 40 are; of equally frequent ones
    those later in the alphabet.
    """
    if counts.keys() == {*RARE, *COMMON}:
        return frozenset(RARE)
    ranked = sorted(sorted(counts, reverse=True), key=lambda name: counts[name])
    return frozenset(ranked[: round(SHARE * len(ranked))])
