"""What the results of an image follow from, as digests: two versions that agree in both need one set between them.

Not the bytes as received: a PACS re-encodes and adds elements, and the radiograph stays the same. Nor the decoded
pixels as such: what of them can reach a result is the model's input and the picture that the results show.
"""

from __future__ import annotations

from hashlib import sha256

from chexnode.encode.attributes import IDENTITY
from chexnode.encode.source import sanitise
from chexnode.vocabulary.records import Digests
from chexnode.work.prepared import Prepared

#: Header elements that measure or place the image: results give sides, areas and spacings by them.
_MEASURED = (
    "Modality",
    "PatientOrientation",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "LossyImageCompression",
)


def digests_of(prepared: Prepared) -> Digests:
    """The digests of an image, with all that is noted about it.

    ``content``: of the model's input. ``identity``: of the picture that is shown, of the elements that results are
    measured by and point to, of the notes, and of patient, study, series and instance (:data:`IDENTITY`). Other
    elements that results carry along, such as the institution's name, make no image another one.
    """
    source = sanitise(prepared.header, prepared.choice)
    facts: list[object] = [
        *((keyword, str(source.ds[keyword].value)) for keyword in (*IDENTITY, *_MEASURED) if keyword in source.ds),
        source.sop_class_uid,
        source.rows,
        source.columns,
        source.spacing,
        source.calibrated_spacing,
        source.pixel_aspect_ratio,
        prepared.choice,
        sorted(prepared.notes),
        prepared.display.shape,
    ]
    identity = sha256(repr(facts).encode())
    identity.update(prepared.display.tobytes())
    content = sha256(repr(prepared.image.shape).encode())
    content.update(prepared.image.tobytes())
    return Digests(content.hexdigest(), identity.hexdigest())
