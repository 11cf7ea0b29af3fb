"""``chexnode pull``: studies from a DICOMweb service into the receive path, as if they had been sent to us.

Search (PS3.18 section 10.6) by study and series, retrieval (section 10.4) instance by instance in the stored transfer
syntax. What the node has received before, and its own results, are left out: a run that was ended is taken up by
starting it again. Only series of the modalities that the gate lets through are fetched.

An archive holds more than a disk, and gives it faster than it is analysed: fetching waits while more images than a few
are queued, so that those of today are not behind those of ten years, and while the disk is too full to receive.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import httpx
from pydicom.datadict import tag_for_keyword

from chexnode.archive.query_retrieve import caller_of
from chexnode.audit.transfers import Transfers
from chexnode.dicomweb.client import open_client, translated, unusable
from chexnode.dicomweb.media_types import BadMediaType, parse_media_type
from chexnode.dicomweb.multipart import MultipartError
from chexnode.node import Node
from chexnode.receive.header import is_safe_uid
from chexnode.receive.http_body import HttpBody
from chexnode.receive.storage import StorageService
from chexnode.settings.destination import DestinationSettings
from chexnode.tls import client_context
from chexnode.triage.reading import is_by_algorithm
from chexnode.vocabulary.backoff import Backoff
from chexnode.vocabulary.errors import DestinationDown, Transient, Usage
from chexnode.vocabulary.records import Caller

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 100
"""Matches asked for at once: services bound how many they give."""

LOOK_SECONDS = 2.0
"""Between two looks at what is in the way."""

REPORT_EVERY = 100
"""Studies; a log line tells how far a run is."""

ATTEMPTS = 5
"""Of one request, with the back-off between them, before the service counts as down."""

_STUDY, _SERIES, _MODALITY, _INSTANCE = "0020000D", "0020000E", "00080060", "00080018"
_MANUFACTURER, _SERIES_DESCRIPTION = "00080070", "0008103E"
_RELATED = "00201209"
_PART10 = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(slots=True)
class Pulled:
    """What one run came to; also what ``--json`` prints."""

    studies: int = 0
    expected: int = 0
    """Instances that the service says are in series of the wanted modalities; where it does not, those found."""
    found: int = 0
    """Instances in series of the wanted modalities."""
    held: int = 0
    """Of these, received before or made by us: not fetched."""
    stored: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID -> why it is not stored."""
    incomplete: list[str] = field(default_factory=list)
    """Searches whose matches the service did not all give, each as a sentence."""


class NotRetrieved(Exception):
    """This instance cannot be had; others may."""


class DicomWebArchive:
    """A DICOMweb service to search and retrieve from. Use as a context manager; entering raises DestinationDown."""

    def __init__(self, node: Node, settings: DestinationSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings, self._sleep, self._trail = settings, sleep, node.trail
        self.expected = 0
        """Instances of the series listed so far, by what the service says of each."""
        self.incomplete: list[str] = []
        """Searches that ended though the service had said that there is more, each as a sentence."""
        self._tls = client_context(node.settings.tls) if settings.speaks_tls else None

    def __enter__(self) -> Self:
        self._client = open_client(self.settings, self._tls)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def studies(self, query: Mapping[str, str]) -> list[str]:
        """Study Instance UIDs that match ``query``, attribute -> value. Raises DestinationDown."""
        return self._uids("/studies", _STUDY, query)

    def instances(self, study: str, modalities: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield (Series, SOP Instance UID) of series of ``modalities`` in a study, results of algorithms left out.

        Raises DestinationDown.
        """
        wanted = {modality.strip().upper() for modality in modalities}
        for one in list(self._search(f"/studies/{study}/series", _SERIES, {"includefield": _MANUFACTURER})):
            by_algorithm = is_by_algorithm(_value(one, _MANUFACTURER), _value(one, _SERIES_DESCRIPTION))
            if _value(one, _MODALITY).strip().upper() in wanted and not by_algorithm:
                series = _value(one, _SERIES)
                uids = self._uids(f"/studies/{study}/series/{series}/instances", _INSTANCE, {})
                said = _value(one, _RELATED)
                expected = max(len(uids), int(said) if re.fullmatch("[0-9]{1,9}", said) else 0)
                self.expected += expected
                if len(uids) < expected:
                    self.incomplete.append(
                        f"series {series} of study {study}: {len(uids)} of {expected} instances were listed"
                    )
                yield from ((series, uid) for uid in uids)

    def retrieve(self, study: str, series: str, instance: str, into: Callable[[str], HttpBody]) -> HttpBody:
        """Stream one instance into the body that ``into`` makes for a boundary; return it, ended.

        Raises NotRetrieved, and DestinationDown after :data:`ATTEMPTS`.
        """
        path = f"/studies/{study}/series/{series}/instances/{instance}"
        return self._again(lambda: self._retrieve(path, into))

    def _retrieve(self, path: str, into: Callable[[str], HttpBody]) -> HttpBody:
        with (
            translated(self.settings.timeout_seconds),
            self._client.stream("GET", path, headers={"Accept": _PART10}) as response,
        ):
            if response.status_code in (httpx.codes.NOT_FOUND, httpx.codes.GONE, httpx.codes.NOT_ACCEPTABLE):
                raise NotRetrieved(unusable(response))
            if response.status_code != httpx.codes.OK:
                raise DestinationDown(unusable(response))
            try:
                kind = parse_media_type(response.headers.get("Content-Type", ""))
                body = into(kind.parameters.get("boundary", ""))
            except (BadMediaType, MultipartError) as error:
                raise NotRetrieved(f"the answer is not multipart: {error}") from error
            try:
                for chunk in response.iter_bytes():
                    body.feed(chunk)
                body.end()
            except MultipartError as error:
                raise NotRetrieved(f"the answer is broken: {error}") from error
            finally:
                body.abandon()
            return body

    def _uids(self, path: str, tag: str, query: Mapping[str, str]) -> list[str]:
        return [_value(one, tag) for one in self._search(path, tag, query)]

    def _search(self, path: str, tag: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield each match once, page by page, until a page brings nothing new.

        A service may give fewer than were asked for (PS3.18 section 8.3.4.4), so that a short page is not the last.
        """
        seen: set[str] = set()
        offset = 0
        resource = httpx.URL(self.settings.url or "").path.rstrip("/") + path
        self._trail.queried_web(self.settings, resource, urlencode(query).encode())
        while True:
            page = {"limit": str(PAGE), "offset": str(offset)}
            matches, warning = self._again(lambda page=page: self._get(path, {**query, **page}))  # type: ignore[misc]
            offset += len(matches)
            new = [one for one in matches if is_safe_uid(_value(one, tag)) and _value(one, tag) not in seen]
            seen.update(_value(one, tag) for one in new)
            yield from new
            if not new:
                if warning and "additional" in warning.lower():
                    text = f"{resource}: {len(seen)} matches came, but no page brings what the service says is left"
                    self.incomplete.append(f"{text} ({warning})")
                    log.warning("%s", text)
                return

    def _get(self, path: str, query: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
        """The matches, and the text of the service's Warning."""
        with translated(self.settings.timeout_seconds):
            response = self._client.get(path, params=dict(query), headers={"Accept": "application/dicom+json"})
        behind_the_end = response.status_code == httpx.codes.NOT_FOUND and query.get("offset", "0") != "0"
        if behind_the_end or response.status_code == httpx.codes.NO_CONTENT:
            return [], ""
        if response.status_code != httpx.codes.OK:
            raise DestinationDown(unusable(response))
        try:
            matches = response.json()
        except ValueError as error:
            raise DestinationDown("its answer to a search is not JSON") from error
        rows = [one for one in matches if isinstance(one, dict)] if isinstance(matches, list) else []
        return rows, response.headers.get("Warning", "")

    def _again(self, action: Callable[[], T]) -> T:
        for failures in range(1, ATTEMPTS):
            try:
                return action()
            except DestinationDown:
                self._sleep(Backoff().delay(failures))
        return action()


class Pace:
    """How fast images may come. Use :meth:`wait` before each."""

    def __init__(
        self,
        node: Node,
        storage: StorageService,
        queue: int = 0,
        per_minute: float = 0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``queue``: images that may wait for analysis; ``per_minute``: images a minute. 0: no limit."""
        self._storage, self._ledger, self._queue = storage, node.ledger, queue
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._sleep, self._clock = sleep, clock
        self._next = clock()
        self._known_room = 0

    def wait(self) -> None:
        """Return when the next image may come. Raises Transient when the database is away."""
        if (early := self._next - self._clock()) > 0:
            self._sleep(early)
        self._next = self._clock() + self._seconds
        told = ""
        while why := self._in_the_way():
            if why != told:
                log.warning("pull waits: %s", why)
                told = why
            self._sleep(LOOK_SECONDS)

    def _in_the_way(self) -> str:
        if not self._storage.has_room():
            return "the disk is too full to receive, until retention or somebody makes room"
        if not self._queue:
            return ""
        if self._known_room <= 0:  # counted once for as many images as then find room
            self._known_room = self._queue - self._ledger.views.waiting(self._queue)
        self._known_room -= 1
        return f"{self._queue} images are queued for analysis" if self._known_room < 0 else ""


def pull(node: Node, service: DicomWebArchive, storage: StorageService, studies: Iterable[str], pace: Pace) -> Pulled:
    """Fetch ``studies`` at this ``pace``.

    Raises DestinationDown where the service cannot be used, and Transient where the node cannot store now; what was
    stored until then stays.
    """
    said, caller, holdings = Pulled(), caller_of(service.settings), node.ledger.holdings
    for study in studies:
        found = list(service.instances(study, node.settings.gate.modalities))
        uids = [uid for _, uid in found]
        held = holdings.received(uids) | holdings.made(uids)
        said.studies, said.found, said.held = said.studies + 1, said.found + len(found), said.held + len(held)
        transfers = Transfers()
        try:
            for series, uid in found:
                if uid in held:
                    continue
                pace.wait()
                why = _fetch(service, storage, caller, study, series, uid, transfers)
                if why is None:
                    said.stored += 1
                else:
                    said.failed[uid] = why
        finally:
            node.trail.fetched(service.settings, transfers)
        said.incomplete, said.expected = service.incomplete, service.expected
        if said.studies % REPORT_EVERY == 0:
            log.info("pulled", extra={"studies": said.studies, "stored": said.stored, "held": said.held})
    return said


def wanted_studies(uids: Iterable[str]) -> list[str]:
    """``uids``, each once. Raises Usage for what is no UID."""
    for uid in uids:
        if not is_safe_uid(uid):
            raise Usage(f"{uid!r} is not a UID")
    return list(dict.fromkeys(uids))


def wanted_query(terms: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` terms as a search. Raises Usage for a key that DICOM does not know."""
    query = {}
    for term in terms:
        keyword, is_term, value = term.partition("=")
        if not is_term or tag_for_keyword(keyword) is None:
            raise Usage(f"{term!r} is not KEY=VALUE with a DICOM keyword, such as StudyDate=20250101-20250131")
        query[keyword] = value
    return query


def _fetch(
    service: DicomWebArchive,
    storage: StorageService,
    caller: Caller,
    study: str,
    series: str,
    uid: str,
    transfers: Transfers,
) -> str | None:
    """Why the instance is not stored; None where it is."""
    try:
        body = service.retrieve(study, series, uid, lambda boundary: HttpBody(storage, caller, study, boundary))
    except NotRetrieved as error:
        return str(error)
    outcome = next((one for one in body.outcomes if one.sop_instance_uid == uid), None)
    if outcome is None:
        return "the answer does not hold it"
    if (failure := outcome.answer.failure) is not None:
        if failure.is_temporary:
            raise Transient(f"nothing can be stored now: {outcome.answer.comment}")
        return outcome.answer.comment
    if outcome.stored is not None:
        transfers.add(outcome.stored.subject, outcome.stored.sop_class_uid, outcome.stored.had_before)
    return None


def _value(one: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in the DICOM JSON model; empty where there is none."""
    element = one.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""
