"""The DICOM conformance statement, in the order of PS3.2: prose around tables that come from the code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version

import created
from pydicom.uid import UID, AllTransferSyntaxes
from webservices import web_services
from writing import page, table

from chexmodels.dicom.jpeg import decoder_of
from chexmodels.dicom.key_objects import REJECTIONS
from chexnode.archive.query_retrieve import _FIND, _GET, _MOVE, _RADIOGRAPHS, _TRANSFER_SYNTAXES
from chexnode.deliver.routing import context
from chexnode.deliver.status import MEANINGS
from chexnode.dimse.messages import Status
from chexnode.dimse.pdus import (
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_UNKNOWN,
    CALLED_AE_UNKNOWN,
    CALLING_AE_UNKNOWN,
    IMPLEMENTATION_CLASS_UID,
    LOCAL_LIMIT,
    MAX_PDU_LENGTH,
    PROTOCOL_VERSION,
)
from chexnode.dimse.uids import EXPLICIT_VR, IMPLICIT_VR, VERIFICATION
from chexnode.encode import verify as rules
from chexnode.encode.attributes import EQUIPMENT, IMAGE, OPTIONAL, TYPE_2
from chexnode.encode.not_analysed import MEANINGS as NOT_ANALYSED
from chexnode.encode.not_analysed import SCHEME
from chexnode.encode.provenance import DISCLAIMER, MANUFACTURER
from chexnode.encode.rejection import TITLES
from chexnode.receive import header
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.limits import LimitSettings
from chexnode.settings.node import NodeSettings
from chexnode.triage.gate import CR_IMAGE, DX_FOR_PRESENTATION, SECONDARY_CAPTURE
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.series import OUR_NAMES
from chexnode.vocabulary.variants import FORMS, GspsForm, ResultKind, ScForm, SegForm, SrForm, Variant

COMMITMENT = "1.2.840.10008.1.20.1"
_IMPLICIT = "1.2.840.10008.1.2"
_VERIFICATION = f"{UID(VERIFICATION).name} `{VERIFICATION}`"
_LIMITS, _DESTINATION, _NODE = (model.model_fields for model in (LimitSettings, DestinationSettings, NodeSettings))

_IDENTITY = frozenset({"StudyInstanceUID", *TYPE_2, *OPTIONAL})

#: Which of the created objects' examples stands for a kind, and where its kind is set.
_OBJECTS: Mapping[Variant, tuple[str, str]] = {
    Variant(SegForm()): ("Segmentation", "`results` with `seg`; `seg_profile` chooses the plane groups"),
    Variant(ScForm()): (
        "Secondary Capture",
        "`results` with `sc`; `sc_encoding`; `heat_map` for a second one",
    ),
    Variant(SrForm(seg_profile="planar")): (
        "Structured Report of the findings",
        "`results` with `sr`; `sr_class` chooses Comprehensive 3D SR or Comprehensive SR; `sr_outline`",
    ),
    Variant(GspsForm()): ("Grayscale Softcopy Presentation State", "`results` with `gsps`"),
}


def statement(statuses: Mapping[str, str], reasons: Mapping[str, str], supersessions: Mapping[str, str]) -> str:
    """The page; the arguments say what the members of Status, Reason and Supersession mean."""
    return page(
        "DICOM conformance statement",
        f"ChexNode {version('chexnode')}, in the structure of PS3.2. {DISCLAIMER}. Every table is made from the "
        "constants, settings and encoders that the node runs with; a test compares.",
        *_overview(),
        *_introduction(),
        *_implementation_model(),
        *_storage_scp(statuses),
        *_storage_scu(supersessions),
        *_query_scu(),
        *_interfaces(),
        *web_services(),
        *_media_characters_security(),
        *_annexes(reasons),
    )


def _overview() -> Iterator[str]:
    yield (
        "## 1 Overview\n\nChexNode receives chest radiographs, has a model look at each, writes what it found as DICOM "
        "objects of the same study and stores them to its destinations. Receiving and storing are independent of each "
        "other: an acknowledged image is durable, and a destination that is down is tried again."
    )
    storage = sorted({context(form)[0] for form in FORMS}, key=lambda uid: UID(uid).name)
    rows = [("any storage SOP class", "", "no", "yes"), _service(VERIFICATION, "yes", "yes")]
    rows += [_service(uid, "yes", "yes") for uid in storage]
    rows += [_service(COMMITMENT, "yes", "yes"), _service(_FIND, "yes", "no"), _service(_MOVE, "yes", "no")]
    rows.append(_service(_GET, "yes", "no"))
    yield "Network services:\n\n" + table(("SOP class", "UID", "SCU", "SCP"), rows)
    yield "Web services: [3.7](#37-web-services). Media storage: none."


def _service(uid: str, scu: str, scp: str) -> tuple[str, str, str, str]:
    return UID(uid).name, f"`{uid}`", scu, scp


def _introduction() -> Iterator[str]:
    yield (
        "## 2 Introduction\n\nFor those who connect ChexNode to other systems. That two systems conform does not mean "
        "that they work together: try it (`chexnode check` asks each destination for what it would be sent). "
        "PS3.x is the current DICOM standard. A *job* is one image and one model; a *delivery* is one object and one "
        "destination; settings are written `section.key` and described in [Settings](settings.md)."
    )


def _implementation_model() -> Iterator[str]:
    yield (
        "## 3 Networking\n\n### 3.1 Implementation model\n\n"
        "```mermaid\nflowchart LR\n"
        "    modality([modality or PACS]) -- C-STORE --> scp[STORAGE-SCP]\n"
        "    scp --> ledger[(ledger and files)]\n"
        "    ledger --> worker[worker: analyse and encode]\n"
        "    worker --> ledger\n"
        "    ledger --> scu[STORAGE-SCU]\n"
        "    scu -- C-STORE --> pacs([destinations])\n"
        "    admin([administrator]) --> query[QUERY-SCU]\n"
        "    query -- C-FIND, C-MOVE, C-GET --> pacs\n```"
    )
    yield (
        "STORAGE-SCP, STORAGE-SCU and QUERY-SCU share one AE title, `node.ae_title` "
        f"(default `{_NODE['ae_title'].default}`). STORAGE-SCP writes each data set as received, decides by its header "
        "whether it is analysed ([which images](triage.md)) and answers when both are durable. Workers analyse; their "
        "results are stored before anything is sent. STORAGE-SCU sends the stored bytes, or their values in Implicit "
        "VR Little Endian where a destination takes only that: the first committed encoding of a result is the truth, "
        "and a second send is of the same values under the same UID. "
        "QUERY-SCU works only for `chexnode reconcile`.\n\n"
        "Sequencing: an image is analysed as soon as it is stored, its results go out at once, whatever other images "
        "its study may get. A study that was quiet for `study.quiet_seconds` closes; destinations with `not_analysed` "
        "then get one report of what in it was not analysed, and another one if a late image changes that."
    )


def _storage_scp(statuses: Mapping[str, str]) -> Iterator[str]:
    yield "### 3.2 STORAGE-SCP"
    yield (
        "#### 3.2.1 SOP classes\n\nVerification, every storage SOP class, private ones too, and Storage Commitment "
        "Push Model: as SCP for what it holds, and as SCU for the reports of destinations."
    )
    yield (
        "#### 3.2.2 Association policies\n\n"
        + table(
            ("what", "value"),
            [
                ("application context", f"`{APPLICATION_CONTEXT}`"),
                ("associations at once", f"`limits.max_associations`, {_LIMITS['max_associations'].default}"),
                (
                    "connections at once from one address",
                    f"`limits.max_associations_per_address`, {_LIMITS['max_associations_per_address'].default}",
                ),
                ("asynchronous operations", "not supported: a window of one"),
                ("maximum PDU announced", f"{MAX_PDU_LENGTH:,} bytes"),
                ("largest data set", f"`limits.max_object_mb`, {_LIMITS['max_object_mb'].default} MB"),
                (
                    "time for negotiation (ARTIM)",
                    f"`limits.negotiation_seconds`, {_LIMITS['negotiation_seconds'].default} s",
                ),
                ("longest silence", f"`limits.idle_seconds`, {_LIMITS['idle_seconds'].default} s"),
                ("slowest sender", f"`limits.min_kb_per_second`, {_LIMITS['min_kb_per_second'].default} kB/s"),
                ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
                ("Implementation Version Name", "`CHEXNODE_` and its version"),
            ],
        )
    )
    yield (
        "It initiates no associations. Without any `[[peer]]` it accepts callers from loopback only; with peers, those "
        "AE titles from those addresses.\n\nAccepted presentation contexts:\n\n"
        + table(
            ("abstract syntax", "transfer syntax", "role", "extended negotiation"),
            [
                (
                    _VERIFICATION,
                    ", ".join(f"{UID(uid).name} `{uid}`" for uid in (IMPLICIT_VR, EXPLICIT_VR)),
                    "SCP",
                    "none",
                ),
                ("any storage SOP class", "the first that the requestor proposes, whichever it is", "SCP", "none"),
                (
                    f"{UID(COMMITMENT).name} `{COMMITMENT}`",
                    "as for Verification",
                    "SCP; SCU where the requestor, a destination, proposes to be the SCP",
                    "role selection",
                ),
            ],
        )
        + "\n\nA request is refused with (result, source and reason of PS3.8 table 9-21):\n\n"
        + table(
            ("result, source, reason", "meaning", "when"),
            (
                (f"{r.result}, {r.source}, {r.reason}", r.text, why)
                for r, why in (
                    (
                        CALLING_AE_UNKNOWN,
                        "no `[[peer]]` has this AE title at this address; without any, only loopback may call",
                    ),
                    (CALLED_AE_UNKNOWN, "another AE title than ours was called and `node.any_called_ae` is off"),
                    (APPLICATION_CONTEXT_UNKNOWN, "the application context is not DICOM's"),
                    (PROTOCOL_VERSION, "the peer does not speak version 1 of the protocol"),
                    (LOCAL_LIMIT, "too many associations, or the disk is low: try again later"),
                )
            ),
        )
    )
    yield (
        "#### 3.2.3 SOP specific conformance\n\nLevel 2 (full) as defined in PS3.4 B.4.1: every attribute is kept, the "
        "data set byte by byte. Nothing is coerced. Data sets are stored under names of our own. An instance that is "
        "known already, bit by bit, is acknowledged and counted; other bytes under a known SOP Instance UID become a "
        "new version of it, recorded as a conflict. Our own results that come back are acknowledged and dropped. "
        "Files are deleted `retention.days` after their images were received and all that was made of them was "
        "delivered.\n\nC-STORE is answered with, and Error Comment (0000,0902) says which case it is:\n\n"
        + table(("status", "when"), ((f"`0x{int(s):04X}`", statuses[s.name]) for s in Status))
    )
    analysed = (CR_IMAGE, DX_FOR_PRESENTATION, SECONDARY_CAPTURE)
    yield (
        "Images of these SOP classes are analysed if the [gate](triage.md) lets them pass; all others are stored and "
        "end as not analysed with a reason:\n\n" + table(("SOP class", "UID"), (_named(uid) for uid in analysed))
    )
    yield (
        "Images in these transfer syntaxes are decoded; one frame, monochrome, up to 32 bits allocated:\n\n"
        + table(("transfer syntax", "UID"), (_named(uid) for uid in _decoded()))
    )


def _named(uid: str) -> tuple[str, str]:
    return UID(uid).name, f"`{uid}`"


def _decoded() -> Iterator[str]:
    for uid in AllTransferSyntaxes:
        try:
            if decoder_of(uid).is_available:
                yield uid
        except NotImplementedError:
            continue


def _storage_scu(supersessions: Mapping[str, str]) -> Iterator[str]:
    yield (
        "### 3.3 STORAGE-SCU\n\n#### 3.3.1 SOP classes\n\nThose of the created objects ([6.1](#61-created-objects)), "
        "Verification (`chexnode check`), and Storage Commitment Push Model where `storage_commitment` is on."
    )
    yield (
        "#### 3.3.2 Association policies\n\n"
        + table(
            ("what", "value"),
            [
                (
                    "associations at once",
                    f"`destination.max_associations`, {_DESTINATION['max_associations'].default} to each destination",
                ),
                ("asynchronous operations", "not supported"),
                (
                    "longest wait for an answer",
                    f"`destination.timeout_seconds`, {_DESTINATION['timeout_seconds'].default:g} s",
                ),
                ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
                ("Implementation Version Name", "`CHEXNODE_` and its version"),
            ],
        )
        + "\n\nIt accepts no associations but the answers to storage commitment, which STORAGE-SCP takes. An "
        "association is opened when results are due, carries all that is due and stays open until nothing is."
    )
    yield (
        "Proposed presentation contexts, those of the objects at hand, one transfer syntax each: the one that the "
        "object is stored in. Nothing is re-encoded for a destination, not even from Explicit to Implicit VR, so "
        "nothing else is proposed:\n\n"
        + table(
            ("abstract syntax", "transfer syntax", "for", "role", "extended negotiation"),
            [
                (_VERIFICATION, f"Implicit VR Little Endian `{_IMPLICIT}`", "`check`", "SCU", "none"),
                *(
                    (
                        f"{UID(sop_class).name} `{sop_class}`",
                        f"{UID(syntax).name} `{syntax}`",
                        f"`{kind}`",
                        "SCU",
                        "none",
                    )
                    for kind, (sop_class, syntax) in dict.fromkeys((form.kind, context(form)) for form in FORMS)
                ),
            ],
        )
        + "\n\nAn object whose context is refused is given up as `DEAD` with the reason; the others of the same image "
        "are sent."
    )
    yield (
        "#### 3.3.3 SOP specific conformance\n\nWhat a C-STORE status means for a delivery; the first row that fits "
        "decides. A status that stands nowhere is tried again. Accepted deliveries become `SENT`, those tried again "
        "`WAITING`, the others `DEAD`.\n\n"
        + table(
            ("status", "answer", "meaning"),
            (
                (f"`0x{first:04X}`" + (f" to `0x{last:04X}`" if last > first else ""), answer.value, meaning)
                for first, last, answer, meaning in MEANINGS
            ),
        )
        + "\n\nA destination that cannot be reached, or fails during a store, is tried again with exponential back-off "
        f"up to 60 s, for `destination.max_age_hours` ({_DESTINATION['max_age_hours'].default:g} h)."
    )
    yield (
        "#### 3.3.4 Withdrawal\n\nResults that are valid no longer are withdrawn from a destination that may have them "
        "as `destination.withdraw` says. `iocm`: a Key Object Selection (TID 2010) of the patient and the study that "
        "they are of, whose evidence names them, with the title by which IHE RAD TF-2 4.66 (Rejection Note Stored) and "
        "[dcm4chee-arc](https://github.com/dcm4che/dcm4chee-arc-light/wiki/Reject-Instances-of-Study) know the reason. "
        "`dcm4chee-reject`: `POST .../instances/{uid}/reject/{code}^DCM` for each of them, with the same code.\n\n"
        + table(
            ("results are", "title", "because"),
            (
                (f"`{why}`", f"({code.value}, {code.scheme_designator}, {code.meaning})", supersessions[why.name])
                for why, code in TITLES.items()
            ),
        )
        + f"\n\nA Key Object Selection that comes, titled {' or '.join(sorted(REJECTIONS))} of DCM, ends the results "
        "of the images that its evidence names, which are withdrawn as above, and those of our results that it names."
    )


def _query_scu() -> Iterator[str]:
    yield (
        "### 3.4 QUERY-SCU\n\nFor `chexnode reconcile` only, to a destination of kind `dicom`: Study Root C-FIND for "
        "the studies of a day on, their series and their instances, and, with `--fetch`, C-MOVE of what was missed to "
        "our own AE title, or C-GET on an association of its own, as `destination.retrieve` says.\n\n"
        + table(
            ("abstract syntax", "transfer syntax", "role", "extended negotiation"),
            (
                (f"{UID(uid).name} `{uid}`", f"Implicit VR Little Endian `{_IMPLICIT}`", "SCU", "none")
                for uid in (_FIND, _MOVE, _GET)
            ),
        )
        + "\n\nFor C-GET we are the SCP, by role selection (PS3.7 D.3.3.4), of the storage SOP classes that the "
        f"archive names in its answers, or of {_names(_RADIOGRAPHS)} where it names none. Each is proposed once in "
        f"every one of {_names(_TRANSFER_SYNTAXES)}, so that an image may come as it is stored. A store is answered as "
        "in 3.2."
    )


def _names(uids: Sequence[str]) -> str:
    return ", ".join(UID(uid).name for uid in uids)


def _interfaces() -> Iterator[str]:
    yield (
        "### 3.5 Network interfaces\n\nTCP/IP over whatever the operating system offers, IPv4 and IPv6. The listener "
        f"binds to `node.host`, {_NODE['host'].default} by default, and `node.port`, {_NODE['port'].default}.\n\n"
        "### 3.6 Configuration\n\nAE titles, addresses and ports are settings: `[node]` for this AE, `[[peer]]` for "
        "those who may call, `[[destination]]` for those who are called. They are read when a role starts."
    )


def _media_characters_security() -> Iterator[str]:
    yield "## 4 Media interchange\n\nNone."
    yield (
        "## 5 Character sets and security\n\n### 5.1 Character sets\n\nReceived data sets are kept as they are. Their "
        "texts are read by their Specific Character Set (0008,0005), all of PS3.3 C.12.1.1.2 with and without code "
        "extensions; where that is missing, misspelt or contradicted by the bytes, as UTF-8 and then Latin-1. Created "
        "objects are in ISO_IR 192 (UTF-8).\n\n"
        "### 5.2 Security\n\nClosed by default: the listener binds to loopback, only known callers are served, and all "
        "that a stranger sends is bounded in size, depth and time. TLS for both directions is described in "
        "[Secure it with TLS](../how-to/secure-with-tls.md). User identity negotiation and digital signatures are not "
        "supported. Logs and metrics hold no attribute values.\n\n"
        "Audit trail (PS3.15 A.5, by A.6 Syslog-TLS or A.7 Syslog-UDP, where `audit.url` is set): Application "
        "Activity, DICOM Instances Transferred, DICOM Instances Accessed, Export, Query, User Authentication (a Login "
        "to the viewer, and any that failed) and Security Alert (Node Authentication; Use of Restricted Function; "
        "Audit Recording Stopped when messages were lost) are reported, as "
        "[Keep an audit trail](../how-to/audit-trail.md) says in detail; "
        "none are received. User ID is the process id of our own processes and the AE title of "
        "others, or the name of a user's token, Alternative User ID the AE title, Audit Source ID our AE title and "
        "host, Audit Source Type Code 4. "
        "Instances are counted by SOP class and not listed. Syslog: facility 10, severity 5, 4 for alerts, MSGID "
        "`DICOM+RFC3881`, no structured data, UTF-8 with a byte order mark."
    )


def _annexes(reasons: Mapping[str, str]) -> Iterator[str]:
    first, second = created.examples()
    yield (
        "## 6 Annexes\n\n### 6.1 Created objects\n\nEach has a series of its own, a Study Instance UID and a patient "
        "that are the source image's, UIDs that follow from the image, the model and the form of the object, and "
        f"names {MANUFACTURER} as Manufacturer and the model with the digest of its weights as contributing "
        "equipment. The Tracking UIDs of a region are the same in all objects of an image.\n\n"
        + table(
            ("object", "SOP class", "Series Number", "wanted by a destination with"),
            (
                (title, UID(first.objects[key].SOPClassUID).name, str(getattr(OUR_NAMES, key.kind.value).number), how)
                for key, (title, how) in _OBJECTS.items()
            ),
        )
        + "\n\nA second Secondary Capture, the heat map, has Series Number "
        f"{OUR_NAMES.heat.number}, and a report of what was not analysed {OUR_NAMES.not_analysed.number}. Numbers and "
        "descriptions are settings, `[series]`. Presence is as in PS3.2: ALWAYS with a value, VNAP perhaps empty, ANAP "
        "perhaps absent, EMPTY always empty. A value that is always the same stands in the value column."
    )
    sources = first.source, second.source
    pair = _pair(first, second, next(iter(_OBJECTS)))
    yield "#### 6.1.1 Patient and study, in every object\n\n" + _attributes(pair, sources, lambda row: row in _IDENTITY)
    for number, (key, (title, _)) in enumerate(_OBJECTS.items(), 2):
        pair = _pair(first, second, key)
        yield f"#### 6.1.{number} {title}\n\n" + _iod(pair)
        yield _attributes(pair, sources, lambda row: row not in _IDENTITY)
        if key.kind is ResultKind.SR:
            yield "Content tree, TID 1500 Measurement Report, of an image with a finding (equal neighbours stand once):"
            yield _tree(first.objects[key])
            yield "of one without:"
            yield _tree(created.no_finding())
            yield "and of what was not analysed in a study:"
            yield _tree(first.report)
    yield (
        "### 6.2 Attributes that are read\n\nFor the ledger and the gate: "
        + _listed(sorted(keyword for keyword in _read_attributes()))
        + ". Copied to the created objects where they are valid: those of "
        + "[6.1.1](#611-patient-and-study-in-every-object)"
        + "; the acquiring equipment, into Contributing Equipment, "
        + _listed(EQUIPMENT)
        + "; of the image "
        + _listed(IMAGE)
        + "."
    )
    yield "### 6.3 Private attributes\n\nNone."
    yield (
        "### 6.4 Coded terminology\n\n"
        "Codes are of DCM, SCT, UCUM and, for one heading that TID 1500 takes from there, UMLS. Our own scheme "
        f"`{SCHEME}`, declared in Coding Scheme Identification (0008,0110) of each report that uses it, says why an "
        "image was not analysed:\n\n"
        + table(
            ("code value", "code meaning", "when"),
            (
                (f"`{cause.value.lower()}`", meaning, reasons[cause.name] if isinstance(cause, Reason) else "")
                for cause, meaning in NOT_ANALYSED.items()
            ),
        )
    )
    yield (
        "### 6.5 Grayscale image consistency\n\nPresentation states say the source image's own modality, VOI and "
        "polarity again, so that a calibrated display shows the radiograph as without them. Secondary Captures are "
        "RGB pictures for reading words and outlines, not for diagnosis.\n\n"
        "### 6.6 Standard extended, specialized and private SOP classes; private transfer syntaxes\n\nNone."
    )


def _iod(pair: tuple[created.Dataset, created.Dataset]) -> str:
    rows = []
    for module in rules.modules(pair[0].SOPClassUID):
        held = [bool(created.top_level(ds, ds, module.name)) for ds in pair]
        presence = "ALWAYS" if module.usage == "M" else "where an attribute of it is below" if any(held) else "never"
        rows.append((_title(module.name), module.usage, presence))
    return table(("module", "usage", "present"), rows)


def _pair(first: created.Example, second: created.Example, key: Variant) -> tuple[created.Dataset, created.Dataset]:
    """The object of each example."""
    return first.objects[key], second.objects[key]


def _attributes(
    pair: tuple[created.Dataset, created.Dataset],
    sources: tuple[created.Source, created.Source],
    wanted: Callable[[str], bool],
) -> str:
    seen: set[str] = set()
    rows = []
    for module in rules.modules(pair[0].SOPClassUID):
        types = rules.attributes(module.name)
        for keyword in created.top_level(*pair, module.name):
            if keyword in seen:
                continue
            seen.add(keyword)
            if not wanted(keyword):
                continue
            for row in created.rows(keyword, pair, sources):
                name = f"{'>' * row.depth} {row.keyword}".strip()
                kind = types[keyword].type if row.depth == 0 else ""
                where = _title(module.name) if row.depth == 0 else ""
                rows.append((name, row.tag, row.vr, kind, where, row.presence, row.value))
    extra = {element.keyword for ds in pair for element in ds} - seen
    assert not extra, f"outside of every module of the IOD: {sorted(extra)}"
    return table(("attribute", "tag", "VR", "type", "module", "presence", "value"), rows)


def _title(module: str) -> str:
    words = module.replace("-", " ").title().split()
    return " ".join(word.upper() if word in ("Sop", "Sc", "Sr", "Icc", "Voi", "Lut") else word for word in words)


def _tree(ds: created.Dataset) -> str:
    return table(("relationship", "type", "concept", "value"), created.content([ds]))


def _listed(keywords: Iterable[str]) -> str:
    return ", ".join(keywords)


def _read_attributes() -> set[str]:
    return {*header._STUDY, *header._SERIES, *header._INSTANCE}
