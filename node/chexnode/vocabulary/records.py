"""The values that go into and come out of the ledger. Plain frozen dataclasses: no SQLAlchemy, no DICOM library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime
from enum import StrEnum

from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.purposes import Purpose
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.states import DeliveryState, InstanceState, JobState
from chexnode.vocabulary.variants import ResultKind, Variant

MANUFACTURER = "ChexNode"
"""Manufacturer (0008,0070) of everything this node makes; recognises our own results when they come back."""


Attributes = Mapping[str, str | int | None]
"""Column name -> value, for the indexed (QIDO) columns of studies, series and instances."""


class Priority(StrEnum):
    """Urgent jobs are claimed before routine ones."""

    URGENT = "urgent"
    """The request said STAT, HIGH or URGENT (Requested Procedure Priority, Study Priority ID)."""
    ROUTINE = "routine"
    """All others."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a header."""

    state: InstanceState
    reason: Reason | None = None
    detail: str = ""
    """A short sentence with the offending value; no patient data."""
    notes: tuple[Note, ...] = ()
    priority: Priority = Priority.ROUTINE


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance whose bytes are durable under ``path`` and that now needs its row, its verdict and its job."""

    sop_instance_uid: str
    digest: str
    """SHA-256 (hex) of the encoded data set as received, without preamble and group 0002."""
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    """Empty where a quarantined data set has none."""
    series_instance_uid: str
    path: str
    """Relative to ``data_dir``."""
    size: int
    calling_ae_title: str
    address: str
    verdict: Verdict
    manufacturer: str = ""
    study: Attributes = field(default_factory=dict)
    series: Attributes = field(default_factory=dict)
    instance: Attributes = field(default_factory=dict)


class Outcome(StrEnum):
    """What the ledger did with an arrival; all of these are acknowledged with 0x0000."""

    NEW = "new"
    """A first version."""
    CONFLICT = "conflict"
    """Other bytes under a known SOP Instance UID: a new version, recorded as a conflict."""
    DUPLICATE = "duplicate"
    """The very bytes are known; counted, and the caller's file may go."""
    OWN_RESULT = "own-result"
    """One of our own results came back by an auto-route rule; counted, and the caller's file may go."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The ledger's answer to one arrival, given after the commit."""

    outcome: Outcome
    path: str | None
    """Where the bytes are now; differs from the arrival's path for a duplicate. None for an own result."""
    job: str | None = None
    """Id of the job, if the arrival made one."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The analysis that new images get; part of every job's key."""

    model: str
    """``name version``, for people."""
    model_digest: str
    settings_digest: str

    def key(self, sop_instance_uid: str, digest: str, number: int = 0) -> str:
        """Hex SHA-256 that identifies one analysis of one image; ``number``: not 0 where it is wanted once more.

        -1 is that of a model which delivers nothing.
        """
        parts = [sop_instance_uid, digest, self.model_digest, self.settings_digest, *([str(number)] if number else [])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class JobClaim:
    """A job under this worker's lease. ``fence`` must still match when a move is made."""

    id: str
    key: str
    """Identifies the analysis, by :meth:`JobSpec.key`; result UIDs derive from it."""
    fence: int
    sop_instance_uid: str
    digest: str
    path: str | None
    """Relative to ``data_dir``; None once retention has deleted the file."""
    transfer_syntax_uid: str
    calling_ae_title: str
    received_at: datetime
    """When this version of the image came."""
    model_digest: str
    attempts: int
    """Transient failures so far."""
    crashes: int
    """Leases of this job that expired so far."""
    notes: tuple[Note, ...]
    created_at: datetime
    """When the job was made: the time written into its results, so that the same job always makes the same bytes."""
    purpose: Purpose = Purpose.IMAGE


@dataclass(frozen=True, slots=True)
class Subject:
    """The study and the patient that an object belongs to, for the audit trail; empty is what is not known."""

    study_instance_uid: str = ""
    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""


@dataclass(frozen=True, slots=True)
class NewResult:
    """One encoded object whose file is already durable."""

    uid: str
    variant: Variant
    sop_class_uid: str
    sha256: str
    path: str
    size: int
    series_instance_uid: str = ""
    """Empty: DICOMweb does not serve it."""
    series: Attributes = field(default_factory=dict)
    instance: Attributes = field(default_factory=dict)
    study_instance_uid: str = ""
    """Empty: that of the image."""


@dataclass(frozen=True, slots=True, order=True)
class Unanalysed:
    """An image of a closed study that has no results."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    """Empty where a broken data set names none."""
    code: str
    """The :class:`Reason`; ``FAILED`` or ``CANCELLED`` where a job ended so."""
    detail: str = ""
    """More on the reason; no patient data."""


@dataclass(frozen=True, slots=True)
class ClosedStudy:
    """A study that is closed, with what its report needs."""

    study_instance_uid: str
    closed_at: datetime
    """The time written into its report, so that the same closing always makes the same bytes."""
    images: tuple[Unanalysed, ...]
    """Those without results, series by series."""
    paths: tuple[str, ...]
    """Files of the study that retention has not deleted, relative to ``data_dir``: any names the patient, the soundest
    is first."""
    calling_ae_titles: frozenset[str]
    """Who sent it."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of what was not analysed and why: the same facts make no second report."""
        lines = [self.study_instance_uid, *(" ".join(astuple(image)) for image in sorted(self.images))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Digests:
    """What the results of an image follow from. Of two versions of it that have both in common one needs none."""

    content: str
    """SHA-256 (hex) of what the model is given: its answer follows from it."""
    identity: str
    """SHA-256 (hex) of what else the results say: whose they are, what they refer to, what is measured and shown."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the watch over drift needs of an analysed image."""

    area: float
    """Share of the image that is in regions, in [0, 1]."""
    brightness: float
    """Mean of what the model was given, in [0, 1]."""
    contrast: float
    """Standard deviation of it."""


@dataclass(frozen=True, slots=True)
class Stages:
    """How long the stages of an analysis took, in seconds."""

    decode_seconds: float
    inference_seconds: float | None
    """That of its batch, divided by the images in it; None where the answer is one that the model gave before."""
    encode_seconds: float | None
    """None where nothing was encoded."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the worker tells of an analysed image, for tables and metrics."""

    score: float | None
    """In [0, 1]; None where the model gave no finite answer."""
    abnormal: bool | None
    regions: int
    notes: tuple[str, ...] = ()
    digests: Digests | None = None
    answer_path: str | None = None
    """Where the model's answer is kept, relative to ``data_dir``; its file is durable already."""
    is_reused: bool = False
    """Whether the answer is one that the model gave before: it was not asked again."""
    figures: Figures | None = None
    stages: Stages | None = None


@dataclass(frozen=True, slots=True)
class SetMember:
    """One object of a set of results."""

    uid: str
    kind: ResultKind
    variant: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    path: str | None
    """Relative to ``data_dir``; None once retention has deleted the file."""
    destinations: tuple[str, ...]
    """Those that have it, or may have it."""


@dataclass(frozen=True, slots=True)
class ResultSet:
    """The results of one job, valid all together or not at all."""

    job: str
    digest: str
    """Of the version of the image that they are of."""
    received_at: datetime
    """When that version came."""
    spec: JobSpec
    """The analysis that they are of."""
    digests: Digests | None
    """None where they were made before the node kept them."""
    members: tuple[SetMember, ...]


@dataclass(frozen=True, slots=True)
class DeliveryClaim:
    """A delivery under this courier's lease."""

    id: int
    fence: int
    job: str | None
    """None for a study's report."""
    destination: str
    kind: ResultKind
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str
    size: int
    attempts: int
    created_at: datetime
    error: str = ""
    """Of the last attempt, in our own words."""
    comment: str = ""
    """What the destination said to it, an Error Comment (0000,0902)."""


@dataclass(frozen=True, slots=True)
class DeliveryOutcome:
    """What became of one claimed delivery."""

    claim: DeliveryClaim
    state: DeliveryState
    """SENT, WAITING or DEAD."""
    error: str = ""
    """An error or a warning, in our own words."""
    next_attempt: datetime | None = None
    to_be_committed: bool = False
    """SENT is not the end: storage commitment is wanted."""
    comment: str = ""
    """What the destination said to it, an Error Comment (0000,0902), which may name a patient."""

    @property
    def why(self) -> str:
        """The error and the comment in one sentence, for those who may read of patients."""
        return f"{self.error} ({self.comment})" if self.comment else self.error


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends objects, or is at the other end of an association."""

    ae_title: str
    address: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """What a storage commitment is asked for (PS3.4 J.3.2): ours, or a peer's."""

    transaction_uid: str
    peer: str
    """Name of the destination we ask, or AE title of who asked us."""
    instances: tuple[tuple[str, str], ...]
    """SOP Class and SOP Instance UIDs."""
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class CommitmentVerdict:
    """The answer to one (PS3.4 J.3.3)."""

    committed: tuple[tuple[str, str], ...]
    """SOP Class and SOP Instance UIDs."""
    failed: tuple[tuple[str, str, int], ...]
    """SOP Class and SOP Instance UIDs and Failure Reason (PS3.3 C.14.1.1)."""


@dataclass(frozen=True, slots=True)
class JobView:
    """One row of ``chexnode jobs``; the field names are the JSON keys people script against."""

    id: str
    """Of the job; an image without a job has one that begins with ``i``."""
    state: JobState | InstanceState
    """Of the job; of the instance where there is no job."""
    reason: str | None
    """Code of why the image is not analysed."""
    sop_instance_uid: str
    study_instance_uid: str
    """Empty where a quarantined data set has none."""
    accession_number: str | None
    model: str | None
    """Name and version."""
    score: float | None
    """Calibrated image score in [0, 1]; None before the analysis."""
    abnormal: bool | None
    """None before the analysis, and where the model could not say."""
    regions: int | None
    """How many regions were found."""
    attempts: int
    """Failed attempts so far, whether an error ended them or the worker died."""
    received_at: datetime
    finished_at: datetime | None
    error: str | None
    """Of the last attempt, or more on the reason."""


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One row of ``chexnode deliveries``; the field names are the JSON keys people script against."""

    id: int
    job: str | None
    """Id of the job; None for a study's report."""
    destination: str
    """Its name in the settings."""
    kind: str
    """``seg``, ``sc``, ``sr`` or ``gsps``."""
    sop_instance_uid: str
    """Of the result."""
    state: DeliveryState
    attempts: int
    next_attempt: datetime | None
    """Not before this; None: as soon as possible, or never again."""
    error: str | None
    """Of the last attempt."""
    created_at: datetime
    """When it was made, or last asked for again."""
    finished_at: datetime | None
    """When the destination accepted it, committed to it, or it was given up."""
