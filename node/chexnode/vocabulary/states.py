"""The states of everything the ledger tracks, the moves between them, and the coded reasons.

``TRANSITIONS`` is the whole truth about what may become what: the ledger refuses every other move, and the diagrams
in docs/reference/states.md are generated from it. This module imports nothing but the standard library, so that every
layer may name a state or a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class InstanceState(StrEnum):
    """A version of an instance: one (SOP Instance UID, digest). Decided by the header when the bytes are stored."""

    ANALYSABLE = "ANALYSABLE"
    """The header allows analysis; a job exists for it."""
    NOT_ANALYSED = "NOT_ANALYSED"
    """A sound object that this node does not analyse; the reason says why."""
    QUARANTINED = "QUARANTINED"
    """Stored as received, but the data set is not sound enough to be served or analysed; the reason says why."""


class JobState(StrEnum):
    """One eligible image x one model."""

    QUEUED = "QUEUED"
    """Waiting for a worker, perhaps until a back-off has passed."""
    RUNNING = "RUNNING"
    """Claimed by a worker under a lease."""
    DELIVERING = "DELIVERING"
    """Results are committed; at least one delivery is not terminal."""
    DONE = "DONE"
    """Every delivery is terminal. Dead ones are counted and visible."""
    REFUSED = "REFUSED"
    """The pixels can never be analysed; the reason says why."""
    FAILED = "FAILED"
    """A bug, or too many attempts; the error is kept."""
    CANCELLED = "CANCELLED"
    """A person cancelled it."""


class DeliveryState(StrEnum):
    """One result x one destination."""

    PENDING = "PENDING"
    """Not tried yet."""
    WAITING = "WAITING"
    """Tried and not accepted; tried again at ``next_attempt``."""
    SENT = "SENT"
    """Accepted by the destination. Terminal unless storage commitment is asked for."""
    COMMITTED = "COMMITTED"
    """The destination has taken responsibility (storage commitment)."""
    DEAD = "DEAD"
    """Given up: refused for good, or too old; the error is kept and it can be replayed."""


class StudyState(StrEnum):
    """All images of one study: an aggregate, never the unit of work."""

    OPEN = "OPEN"
    """An image arrived less than ``[study] quiet_seconds`` ago."""
    CLOSED = "CLOSED"
    """Quiet for that long. A late image reopens it."""


State = InstanceState | JobState | DeliveryState | StudyState

_I, _J, _D, _S = InstanceState, JobState, DeliveryState, StudyState

#: What may become what. Every move is one compare-and-swap UPDATE and one event row in the same transaction.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    _I.ANALYSABLE: frozenset(),
    _I.NOT_ANALYSED: frozenset({_I.ANALYSABLE}),  # re-sent after the gate's settings changed
    _I.QUARANTINED: frozenset({_I.ANALYSABLE}),  # re-sent in the transfer syntax that it really is of
    _J.QUEUED: frozenset({_J.RUNNING, _J.CANCELLED}),
    _J.RUNNING: frozenset({_J.QUEUED, _J.DELIVERING, _J.REFUSED, _J.FAILED, _J.CANCELLED}),
    _J.DELIVERING: frozenset({_J.DONE}),
    _J.DONE: frozenset({_J.DELIVERING}),  # a replay
    _J.REFUSED: frozenset({_J.QUEUED}),  # `jobs retry`
    _J.FAILED: frozenset({_J.QUEUED}),  # `jobs retry`
    _J.CANCELLED: frozenset({_J.QUEUED}),  # `jobs retry`
    _D.PENDING: frozenset({_D.SENT, _D.WAITING, _D.DEAD}),
    _D.WAITING: frozenset({_D.SENT, _D.WAITING, _D.DEAD, _D.PENDING}),
    _D.SENT: frozenset({_D.COMMITTED, _D.WAITING, _D.DEAD, _D.PENDING}),
    _D.COMMITTED: frozenset({_D.PENDING}),  # a replay
    _D.DEAD: frozenset({_D.PENDING}),  # a replay
    _S.OPEN: frozenset({_S.CLOSED}),
    _S.CLOSED: frozenset({_S.OPEN}),
}

#: A job in one of these needs nothing more.
FINAL_JOB_STATES = frozenset({_J.DONE, _J.REFUSED, _J.FAILED, _J.CANCELLED})


class ResultKind(StrEnum):
    """The DICOM objects a job can produce."""

    SEG = "seg"
    SC = "sc"
    SR = "sr"
    GSPS = "gsps"


class Reason(StrEnum):
    """Why an image was not analysed. A code, never free text: tables, metrics and reports count them."""

    # NOT_ANALYSED, from the header
    MODALITY = "modality"
    """Modality (0008,0060) is not CR, DX or RG."""
    SOP_CLASS = "sop-class"
    """Not a CR, DX For Presentation or single-frame monochrome Secondary Capture object."""
    FOR_PROCESSING = "for-processing"
    """DX For Processing, or Presentation Intent Type (0008,0068) FOR PROCESSING: the For Presentation image follows."""
    COLOUR = "colour"
    """More than one sample per pixel, or a colour photometric interpretation."""
    MULTI_FRAME = "multi-frame"
    """Number of Frames (0028,0008) is more than one."""
    NO_PIXEL_DATA = "no-pixel-data"
    """The data set has no Pixel Data (7FE0,0010)."""
    LATERAL_VIEW = "lateral-view"
    """View Position, View Code, Patient Orientation or a description of the image says lateral."""
    OBLIQUE_VIEW = "oblique-view"
    """View Position, View Code, Patient Orientation or a description of the image says oblique."""
    BODY_PART = "body-part"
    """Body Part Examined (0018,0015), Anatomic Region or the descriptions name another part of the body."""
    NON_HUMAN = "non-human"
    """Patient Species (0010,2201), breed, sex neutered, a view of animals (VD, DV) or a word names an animal."""
    AI_RESULT = "ai-result"
    """Made by an algorithm, this node's or another's."""
    PROCESSED = "processed-image"
    """Bones or tissue taken out (dual energy, suppression), a subtraction, or a quality control image."""
    UNDER_AGE = "under-age"
    """The patient is known to be younger than ``[gate] min_age_years``."""
    VIEW_UNKNOWN = "view-unknown"
    """No view is stated and ``[gate] require_view`` asks for one."""
    BODY_PART_UNKNOWN = "body-part-unknown"
    """No body part is stated and ``[gate] require_body_part`` asks for one."""

    # QUARANTINED, from the header
    MALFORMED = "malformed"
    """The data set cannot be parsed to its end."""
    INVALID_UID = "invalid-uid"
    """A Study, Series or SOP Instance UID is not a valid UID (PS3.5 section 9.1)."""
    SOP_CLASS_MISMATCH = "sop-class-mismatch"
    """SOP Class UID in the data set differs from the one it was sent or stored under."""
    IMAGE_ATTRIBUTES = "image-attributes"
    """Rows, Columns, Bits Allocated or another Image Pixel attribute is absent, contradictory or impossible."""
    TOO_DEEP = "too-deep"
    """Sequences nested deeper, or more elements, than the limits allow."""

    # REFUSED, from the pixels
    UNDECODABLE = "undecodable"
    """The pixel data cannot be decoded."""
    PIXEL_SIZE = "pixel-size"
    """The pixel data's own dimensions or length contradict Rows and Columns."""
    DECODE_LIMIT = "decode-limit"
    """Decoding went over its limit of time or memory."""
    CONSTANT = "constant-pixels"
    """All pixels are the same, or nearly."""
    NOISE = "noise-pixels"
    """The pixels are noise, not a radiograph."""
    TOO_SMALL = "too-small"
    """Fewer than 64 rows or columns."""
    SOURCE_MISSING = "source-missing"
    """The stored source file is gone or its digest differs."""


class Note(StrEnum):
    """What was noticed about an image that was analysed all the same."""

    VIEW_UNKNOWN = "view-unknown"
    """View Position is absent or says nothing."""
    BODY_PART_UNKNOWN = "body-part-unknown"
    """Body Part Examined is absent."""
    VIEW_CONTRADICTORY = "view-contradictory"
    """View Position says frontal and a description or Patient Orientation lateral or oblique."""
    BODY_PART_CONTRADICTORY = "body-part-contradictory"
    """Body Part Examined says chest and a description names another part."""
    CHILD = "child"
    """The patient is known to be younger than ``[gate] child_years``; the model learnt from adults."""
    AGE_UNKNOWN = "age-unknown"
    """The patient's age is absent or cannot be read."""
    POLARITY_DOUBTFUL = "polarity-doubtful"
    """The picture looks inverted: the border is brighter than the mediastinum."""
    ORIENTATION_DOUBTFUL = "orientation-doubtful"
    """The picture looks upside down or rotated."""
    BURNED_IN = "burned-in-annotation"
    """Burned In Annotation (0028,0301) is YES."""
    LOSSY = "lossy"
    """The image went through lossy compression."""
    SPACING_UNKNOWN = "spacing-unknown"
    """No usable Imager Pixel Spacing or Pixel Spacing."""
    WINDOW_IGNORED = "window-ignored"
    """A VOI window or LUT was present but invalid, and was ignored."""
    MODALITY_LUT_IGNORED = "modality-lut-ignored"
    """A Modality LUT or rescale was present but invalid, and was ignored."""
    POLARITY_CONTRADICTORY = "polarity-contradictory"
    """Photometric Interpretation and Presentation LUT Shape contradict each other."""
    MODEL_OUTPUT_INVALID = "model-output-invalid"
    """The model answered with nothing, NaN or infinity: the image counts as not evaluated, never as negative."""


class Scope(StrEnum):
    """What a token is good for."""

    READ = "read"
    """Look: jobs, deliveries, the account, metrics, DICOMweb search and retrieve."""
    STORE = "store"
    """Bring images: DICOMweb store."""
    ADMIN = "admin"
    """Everything, what changes the node's work included."""
