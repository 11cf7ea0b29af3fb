"""Who made a result, of what and when: equipment, codes, times and UIDs, all following from the job alone.

Everything here is deterministic: the same job and the same ``created_at`` give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import Literal
from uuid import UUID

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from chexmodels.dicom.key_objects import KeyObject
from chexnode.vocabulary.records import MANUFACTURER as MANUFACTURER
from chexnode.vocabulary.series import OUR_NAMES, SeriesName, SeriesNames
from chexnode.vocabulary.variants import ResultForm, Variant

DISCLAIMER = "Research use only - not for diagnosis"

#: Segmented Property Category (CID 7150), Type (CID 7159) and Anatomic Region (CID 4).
CATEGORY = codes.SCT.MorphologicallyAbnormalStructure
#: What is marked is abnormal; what it is nobody said, so that the type is the category.
ABNORMALITY = CATEGORY
THORAX = codes.SCT.Thorax
#: Coding Scheme Designator of our own codes: one that begins with 99 is private (PS3.16 section 8.2).
SCHEME = "99CHEXNODE"
#: Algorithm Family, CID 7162.
ARTIFICIAL_INTELLIGENCE = codes.DCM.ArtificialIntelligence
#: Purpose of Reference (CID 7202), and Derivation (CID 7203).
SOURCE_IMAGE = codes.DCM.SourceImageForImageProcessingOperation
SEGMENTED, RESAMPLED, COMPRESSED = (
    codes.DCM.SegmentationImageDerivation,
    codes.DCM.SpatialResampling,
    codes.DCM.LossyCompression,
)


HeatKind = Literal["probability", "anomaly", "none"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every result says of its making."""

    job_key: str
    """Hex SHA-256 over (SOP Instance UID, digest, model digest, analysis-settings digest)."""
    model_name: str
    model_version: str
    model_digest: str
    """SHA-256 (hex) of the bundle."""
    operating_point: str
    threshold: float
    """Heat in [0, 1] from which a pixel belongs to a region."""
    software_version: str
    """Version of ChexNode."""
    created_at: datetime
    """The one moment all times in the results come from. Aware; written in the offset that the source states, else in
    its own: give it in local time, which is what the study's times are in."""
    heat_kind: HeatKind = "anomaly"
    """What the model's heat is, by its card. An anomaly heat is never called a probability."""
    series: SeriesNames = OUR_NAMES
    image_threshold: float | None = None
    """Calibrated score in [0, 1] from which an image has a finding: what decides. None: not known, and so not shown."""
    predecessors: tuple[KeyObject, ...] = ()
    """The reports that a report of this job takes the place of."""
    class_thresholds: Mapping[str, float] = field(default_factory=dict)
    """Class -> score in [0, 1] from which the model calls it present; of a class without one only its score is told."""
    label: str = ""
    """What the destination's results are marked with, such as RESEARCH; part of their UIDs. Empty: nothing."""

    def uid(self, form: ResultForm, part: str = "instance") -> str:
        """Return the UID of the result of ``form`` under this label, or of a ``part`` of it."""
        return result_uid(self.job_key, Variant(form, self.label), part)

    def series_description(self, name: SeriesName, *notes: str) -> str:
        """Return Series Description: the label in front, the series' own, and what must be known of this one.

        A note that a Long String has no room for is left out.
        """
        described = " ".join(filter(None, (self.label, name.description)))
        for note in filter(None, notes):
            longer = f"{described} - {note}"
            described = longer if len(longer) <= 64 else described
        return described


def derived_uid(digest: bytes) -> str:
    """Return ``2.25.`` and the integer of a UUID (PS3.5 B.2) made of the first 128 bits of a SHA-256 ``digest``."""
    return f"2.25.{UUID(bytes=digest[:16], version=5).int}"


def result_uid(job_key: str, variant: Variant, part: str = "instance") -> str:
    """Return the UID of a result, or of a ``part`` of it such as its series; the same for the same arguments."""
    return derived_uid(sha256("\0".join((job_key, variant.kind.value, str(variant), part)).encode()).digest())


def shared_uid(job_key: str, part: str) -> str:
    """Return a UID that all results of one job share, such as a synthetic Frame of Reference."""
    return derived_uid(sha256("\0".join((job_key, "shared", part)).encode()).digest())


def tracking_uid(job_key: str, region: int | None = None) -> str:
    """Return the Tracking UID of region 1, 2, ... (in the order of ``Findings.regions``), or of their union."""
    return shared_uid(job_key, "tracking" if region is None else f"tracking {region}")


def long_string(text: str) -> str:
    """Return ``text`` fit for an LO value of our own: one line, no backslash, at most 64 characters."""
    return " ".join("".join(c if c.isprintable() and c != "\\" else " " for c in text).split())[:64]


def software_versions(provenance: Provenance) -> list[str]:
    """Return Software Versions (0018,1020): the node's and the model's."""
    return [
        long_string(f"ChexNode {provenance.software_version}"),
        long_string(f"{provenance.model_name} {provenance.model_version}"),
    ]


def equipment(provenance: Provenance) -> ContributingEquipment:
    """Return the Contributing Equipment item of the node (PS3.3 C.12.1), which names the weights by their digest."""
    return ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=long_string(provenance.model_name),
        software_versions=software_versions(provenance),
        device_serial_number=long_string(provenance.model_digest),
        contribution_datetime=provenance.created_at.strftime("%Y%m%d%H%M%S.%f%z"),
        contribution_description=(
            f"{provenance.model_name} {provenance.model_version}, weights SHA-256 {provenance.model_digest}, "
            f"operating point {provenance.operating_point}, threshold {provenance.threshold:.4g}. {DISCLAIMER}."
        )[:1024],
    )


def algorithm(provenance: Provenance) -> AlgorithmIdentificationSequence:
    """Return the Algorithm Identification (PS3.3 10.16) of the model."""
    return AlgorithmIdentificationSequence(
        name=long_string(provenance.model_name),
        family=ARTIFICIAL_INTELLIGENCE,
        version=long_string(provenance.model_version),
        source=MANUFACTURER,
        parameters={
            "operating_point": provenance.operating_point,
            "threshold": f"{provenance.threshold:.4g}",
            "weights_sha256": provenance.model_digest,
        },
    )


def private_scheme() -> Dataset:
    """Return the item of Coding Scheme Identification that declares our own codes (PS3.3 C.12.1.1.4)."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = f"{MANUFACTURER} private codes"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item


def stamp(ds: Dataset, provenance: Provenance) -> None:
    """Set every date and time that the library took from the clock to the job's ``created_at``."""
    set_times(ds, provenance.created_at)


def set_times(ds: Dataset, created_at: datetime) -> None:
    """Set every date and time that the library took from the clock to ``created_at``, which is aware."""
    when = created_at
    offset = ds.get("TimezoneOffsetFromUTC", "")
    if offset:
        minutes = int(offset[1:3]) * 60 + int(offset[3:5])
        when = when.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
    for keyword in ("InstanceCreationDate", "ContentDate", "DateOfSecondaryCapture", "PresentationCreationDate"):
        if keyword in ds:
            setattr(ds, keyword, when.strftime("%Y%m%d"))
    for keyword in ("InstanceCreationTime", "ContentTime", "TimeOfSecondaryCapture", "PresentationCreationTime"):
        if keyword in ds:
            setattr(ds, keyword, when.strftime("%H%M%S.%f"))
    for item in ds.ContributingEquipmentSequence:
        if "ContributionDateTime" in item and item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = created_at.strftime("%Y%m%d%H%M%S.%f%z")
