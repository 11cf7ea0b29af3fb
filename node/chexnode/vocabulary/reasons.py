"""Why an image was not analysed, as coded reasons."""

from __future__ import annotations

from enum import StrEnum


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

    SITE_RULE = "site-rule"
    """A rule of the site (``[[rule]]``) refuses it; the detail gives the rule's reason."""

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
    OUT_OF_SCOPE = "out-of-scope"
    """A page of writing, not a radiograph (``[gate] out_of_scope`` may only note it); or unlike what the model learnt
    from, where ``[gate] out_of_distribution`` refuses that."""
    TOO_SMALL = "too-small"
    """Fewer than 64 rows or columns."""
    SOURCE_MISSING = "source-missing"
    """The stored source file is gone or its digest differs."""

    # SKIPPED, because results stand already
    SAME_IMAGE = "same-image"
    """An earlier version of the image, or another in its place, has the same pixels and identity, and results."""
    LATER_VERSION = "later-version"
    """A later version of the image has results."""
