"""Names of a model's classes as codes: SNOMED CT where the name has one meaning, else a code of our own scheme.

SNOMED CT's are those of DICOM's context groups and other well-known concepts for findings of the chest. A name that is
none of these gets a private code (PS3.16 section 8.2) that follows from it alone, with the name as its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from chexnode.encode.provenance import SCHEME, long_string

SNOMED: Mapping[str, Code] = {
    "atelectasis": Code("46621007", "SCT", "Atelectasis"),
    "cardiomegaly": codes.SCT.Cardiomegaly,
    "consolidation": Code("95436008", "SCT", "Lung consolidation"),
    "edema": codes.SCT.PulmonaryEdema,
    "pulmonary edema": codes.SCT.PulmonaryEdema,
    "effusion": codes.SCT.PleuralEffusion,
    "pleural effusion": codes.SCT.PleuralEffusion,
    "emphysema": Code("87433001", "SCT", "Pulmonary emphysema"),
    "fibrosis": Code("51615001", "SCT", "Fibrosis of lung"),
    "pulmonary fibrosis": Code("51615001", "SCT", "Fibrosis of lung"),
    "hernia": Code("84089009", "SCT", "Hiatal hernia"),
    "mass": Code("4147007", "SCT", "Mass"),
    "pneumonia": Code("233604007", "SCT", "Pneumonia"),
    "pneumothorax": codes.SCT.Pneumothorax,
    "pulmonary embolism": codes.SCT.PulmonaryEmbolism,
}
"""Name in small letters -> concept."""


def class_code(name: str) -> Code:
    """The code of a class; the same name always gives the same one."""
    plain = " ".join(name.replace("_", " ").casefold().split())
    return SNOMED.get(plain) or Code(f"C{sha256(plain.encode()).hexdigest()[:12].upper()}", SCHEME, long_string(name))
