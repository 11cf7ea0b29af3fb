"""The conformance statement's section on web services (PS3.2, PS3.18), from the constants that they answer with."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.uid import UID
from writing import table

from chexmodels.dicom.transfer_syntaxes import DECODED, NATIVE
from chexnode.dicomweb.media_types import BYTES, DICOM, DICOM_JSON, DICOM_XML, IMAGE_TYPES, JSON
from chexnode.dimse.messages import Status
from chexnode.web.dicomweb import document, pixels, query, rendered, store
from chexnode.web.dicomweb.query import ATTRIBUTES, Level

_MULTI = 'multipart/related; type="{}"'


def web_services() -> Iterator[str]:
    """The section, paragraph by paragraph."""
    yield (
        "### 3.7 Web services\n\nOrigin server of the Studies Service and Resources of PS3.18 chapter 10, below "
        "`/dicom-web`: Retrieve (WADO-RS), Store (STOW-RS), Search (QIDO-RS) and Retrieve Capabilities (8.9, as WADL "
        "in XML or JSON). It serves what the node received and what it made, of each SOP Instance UID the version that "
        "came last. User agent of Store for destinations of kind `stow`, and of Search and Retrieve for "
        "`chexnode pull`. The URI service, the Worklist and Non-Patient Instance services and deleting are not "
        "supported. HTTP/1.1, with TLS where `tls.web` is on; bearer tokens (RFC 6750). UTF-8 is the only character "
        "set of answers. Answers may not be kept by caches."
    )
    yield from _retrieve()
    yield from _store()
    yield from _search()


def _retrieve() -> Iterator[str]:
    either = f"`{BYTES}`, or the media type of its transfer syntax"
    rows = [
        ("study, series, instance", f"`{_MULTI.format(DICOM)}`; one instance: `{DICOM}`"),
        ("`/metadata` of each", f"`{DICOM_JSON}`, `{JSON}`, `{_MULTI.format(DICOM_XML)}`"),
        ("`/bulkdata`, `/pixeldata` of each", f"`{_MULTI.format(BYTES)}`"),
        ("a BulkDataURI", f"`{BYTES}`, by itself or multipart; Pixel Data as frames"),
        ("`/frames/LIST`", f"{either}; by itself or multipart"),
        ("`/rendered` of each, and of frames: images", _listed(rendered.PICTURES)),
        ("`/rendered`: documents of structured reports", _listed(document.TYPES)),
        ("`/thumbnail` of each, and of frames", _listed(rendered.PICTURES)),
    ]
    yield "#### 3.7.1 Retrieve\n\n" + table(("resource", "media types"), rows)
    yield (
        "Where no transfer syntax is asked for, data sets and pixels come in Explicit VR Little Endian, unless the "
        "node has the pixels only lossy compressed, or cannot decode them; `transfer-syntax=*` gives what is stored, "
        "even in Implicit VR or Explicit VR Big Endian. From and to (besides as stored):\n\n"
        + table(
            ("stored in", "UID", "to Explicit VR Little Endian", "media type of a frame"),
            (
                (UID(uid).name, f"`{uid}`", "by default" if _by_default(uid) else "when asked for", _frame(uid))
                for uid in sorted(NATIVE | DECODED, key=lambda uid: [*map(int, uid.split("."))])
            ),
        )
    )
    yield (
        "Query parameters: `accept`, `charset` (UTF-8 whatever it says) and, for rendered resources and thumbnails, "
        "`annotation` (`patient`, `technique`), `quality`, `viewport`, `window` (`linear`, `linear-exact`, `sigmoid`) "
        "and `iccprofile` (`no`, `yes`, `srgb`). Presentation states and volumes are not rendered. What comes by "
        "itself has a strong entity tag, for `If-Match`, `If-None-Match` and `If-Range` (RFC 9110); and `Range` is "
        "answered of what needs no conversion first; neither holds of multipart and rendered resources. Metadata has "
        "a weak tag, for `If-None-Match`. "
        "Statuses: 200, 206 (some instances are gone, or not to be had in the form asked for; a range), 304, 400, 404, "
        "406, 410 (deleted by retention), 412, 416."
    )


def _by_default(uid: str) -> bool:
    return pixels.default_syntax(uid) != uid or uid == "1.2.840.10008.1.2.1"


def _frame(uid: str) -> str:
    kind = IMAGE_TYPES.get(uid)
    return f"`{kind}`" if kind else f"`{BYTES}`"


def _store() -> Iterator[str]:
    failures = (Status.PROCESSING_FAILURE, Status.OUT_OF_RESOURCES, Status.DATA_SET_MISMATCH, Status.CANNOT_UNDERSTAND)
    yield (
        "#### 3.7.2 Store\n\nBodies: "
        + _listed(store.TAKEN)
        + ". Metadata of the last two come with bulk data in parts of their own, named by Content-Location; compressed "
        "pixels keep their transfer syntax. Every storage SOP class and transfer syntax is stored, nothing is "
        "coerced. A "
        "file whose file meta information is not that of its data set is stored as what the data set says, with "
        "Warning "
        "Reason `B007H`. A body may have the content coding gzip. A known instance is acknowledged; other bytes of a "
        "known SOP Instance UID become "
        f"its new version. Answers: `{DICOM_JSON}`, `{JSON}` or `{DICOM_XML}`. Statuses: 200, 202 (some, or with "
        f"warnings), 400 (no DICOM), 406, "
        "409 (none), 413, 415, 503 (the database is away), 507 (the disk is full). Failure Reasons: "
        + ", ".join(f"`{int(one):04X}H`" for one in failures)
        + "."
    )


def _search() -> Iterator[str]:
    levels = {Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "instance"}
    keys = [(one.keyword, one.vr, levels[one.level]) for one in ATTRIBUTES.values()]
    made = [*query.OF_STUDY, *query.MADE]
    yield (
        "#### 3.7.3 Search\n\nFor studies, series and instances, of all or below a study or series. Matching: single "
        "value, list of values (by backslash, by repeated keys; of code strings, UIDs and numbers also by comma), "
        "universal, wild card, range of dates and times; person names in each component group and regardless of case, "
        "with `fuzzymatching` also by the beginning of each component. Keys, also of the levels above the one "
        "searched, all of them returned:\n\n"
        + table(("attribute", "VR", "level"), [*keys, ("ModalitiesInStudy", "CS", "study")])
        + "\n\nReturned besides: "
        + ", ".join(made)
        + f". At most {query.MOST} results at once, more by `limit` and `offset`; studies latest first. What is not "
        "held for searches, and `emptyvaluematching`, are passed over "
        f"with a Warning header. Answers: `{DICOM_JSON}`, `{JSON}`, `{_MULTI.format(DICOM_XML)}`. Statuses: 200, 204 "
        "(nothing, in XML), 400, 406, 503."
    )


def _listed(kinds: tuple[str, ...]) -> str:
    return ", ".join(f"`{kind}`" for kind in kinds)
