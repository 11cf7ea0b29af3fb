"""STOW-RS to a DICOMweb service: the Store Transaction of PS3.18 section 10.5."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from io import BytesIO
from threading import Event

import httpx
from pydicom import dcmread
from pydicom.dataset import Dataset

from chexnode.deliver import status
from chexnode.deliver.destination import DeliveryAnswer, Interrupted, Outgoing, Sent, load
from chexnode.dicomweb.client import open_client, translated, unusable
from chexnode.dicomweb.media_types import DICOM, DICOM_JSON
from chexnode.dicomweb.multipart import MultipartBody, Part
from chexnode.dicomweb.stow_response import StoreAnswer, is_about_instances, named, read_answer
from chexnode.settings.destination import DestinationSettings
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest

MOST_BYTES = 32_000_000
"""Of instances in one request, which are held in memory; a larger one goes alone."""

_CHUNK = 256 * 1024
_LONGEST_ANSWER = 4_000_000
_DUPLICATE_SOP_INSTANCE = 0x0111  # PS3.7 annex C
_ALREADY_STORED = 0xB00E  # 45070, by which Microsoft's service means the same

_PERHAPS_STORED = frozenset({*range(200, 300), HTTPStatus.CONFLICT})
"""Statuses after which an instance that the answer does not name may be there: Karnak's 409 means "since earlier"."""


class StowDestination:
    """One DICOMweb service, through one connection, which is kept from batch to batch until :meth:`close`."""

    def __init__(self, settings: DestinationSettings, stop: Event, tls: ssl.SSLContext | None = None) -> None:
        self._settings, self._stop, self._tls = settings, stop, tls
        self._client: httpx.Client | None = None

    @property
    def name(self) -> str:
        return self._settings.name

    def send(self, items: Sequence[Outgoing]) -> Iterator[Sent]:
        """Send ``items``, several in one request, and yield one answer each; fewer when asked to stop.

        Raises DestinationDown.
        """
        group: list[tuple[Outgoing, bytes]] = []
        for item in items:
            content = load(item)
            if isinstance(content, Sent):
                yield content
                continue
            if group and sum(len(c) for _, c in group) + len(content) > MOST_BYTES:
                yield from self._store(group)
                group = []
            group.append((item, content))
        yield from self._store(group)

    def request_commitment(self, request: CommitmentRequest, on_report: Callable[[Dataset], int]) -> None:
        """The settings refuse to ask for it: Storage Commitment by web (PS3.18 section 13) is not what is offered."""
        raise DestinationDown("a DICOMweb service is not asked for storage commitment")

    def close(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _store(self, group: Sequence[tuple[Outgoing, bytes]]) -> Iterator[Sent]:
        """Send ``group`` in one request; one by one, where the answer does not tell them apart."""
        if not group or self._stop.is_set():
            return
        if self._client is None:
            self._client = open_client(self._settings, self._tls)
        alone = len(group) == 1
        try:
            answer = _post(self._client, self._settings, [content for _, content in group], self._stop)
        except DestinationDown as down:
            self.close()
            if alone:
                raise Interrupted(down.why, group[0][0]) from down
            raise  # of several it is not known which one it was; the next try is made with one
        unsettled = []
        for item, content in group:
            verdict = interpret(answer, item.claim.sop_instance_uid, alone)
            if verdict is None and answer.status in _PERHAPS_STORED and self._finds(content):
                verdict = DeliveryAnswer.ACCEPTED, f"{named(answer.status)}, and a search finds it there"
            if verdict is None and alone:
                verdict = unproven(answer)
            if verdict is None:
                unsettled.append((item, content))
            else:
                yield Sent(item, *verdict, status=answer.status)
        for one in unsettled:
            yield from self._store([one])

    def _finds(self, content: bytes) -> bool:
        """Whether a search (QIDO-RS) of its series finds the instance ``content``; False where it cannot be asked."""
        ds = dcmread(BytesIO(content), stop_before_pixels=True)
        assert self._client is not None
        path = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances"
        with suppress(DestinationDown, ValueError), translated(self._settings.timeout_seconds):
            query = {"SOPInstanceUID": str(ds.SOPInstanceUID)}
            answer = self._client.get(path, params=query, headers={"Accept": DICOM_JSON})
            matches = answer.json() if answer.status_code == HTTPStatus.OK else []
            rows = [row for row in matches if isinstance(row, dict)] if isinstance(matches, list) else []
            return any(row.get("00080018", {}).get("Value") == [str(ds.SOPInstanceUID)] for row in rows)
        return False


def interpret(answer: StoreAnswer, sop_instance_uid: str, alone: bool) -> tuple[DeliveryAnswer, str] | None:
    """What became of one instance, and a sentence about it; ``alone``: nothing else was in the request.

    Stored is only what the answer's Referenced SOP Sequence (0008,1199) names: a status alone may come from a log-in
    page or a proxy. None: the answer does not say.
    """
    if sop_instance_uid in answer.failed:
        return _failure(answer.failed[sop_instance_uid])
    if sop_instance_uid in answer.stored:
        warning = answer.stored[sop_instance_uid]
        return DeliveryAnswer.ACCEPTED, status.interpret(warning)[1] if warning else ""
    if alone and answer.others:
        return _failure(answer.others[0])
    return None


def unproven(answer: StoreAnswer) -> tuple[DeliveryAnswer, str]:
    """What to do with an instance that was sent alone, is not named in the answer and is not found by a search."""
    if answer.status < 300:
        return (
            DeliveryAnswer.DOUBTFUL,
            f"{named(answer.status)}, but nothing says that it is stored: is it a STOW-RS service?",
        )
    return DeliveryAnswer.DEAD, f"refused with {named(answer.status)}"


def _failure(reason: int) -> tuple[DeliveryAnswer, str]:
    if reason in (_DUPLICATE_SOP_INSTANCE, _ALREADY_STORED):
        return DeliveryAnswer.ACCEPTED, f"0x{reason:04X} the destination already had it"
    answer, sentence = status.interpret(reason)
    if answer is DeliveryAnswer.ACCEPTED:  # a warning, or no reason at all, for an instance that it lists as failed
        return DeliveryAnswer.RETRY, f"0x{reason:04X} not stored" if reason else "not stored, without a reason"
    return answer, sentence


def probe(settings: DestinationSettings, tls: ssl.SSLContext | None = None) -> None:
    """Send a Store request without an instance, which stores nothing. Raises DestinationDown unless it is understood.

    A service may well refuse it as empty; what matters is that it is there and takes our credentials. A page for people
    with a status of success is the answer of something else.
    """
    with open_client(settings, tls) as client:
        answer = _post(client, settings, [], Event())
    if answer.status < 300 and answer.media_type in ("text/html", "application/xhtml+xml"):
        raise DestinationDown("a web page answers there, and no STOW-RS service: is the URL right?")


def _post(client: httpx.Client, settings: DestinationSettings, parts: Sequence[bytes], stop: Event) -> StoreAnswer:
    def pieces(part: bytes) -> Iterator[bytes]:
        for start in range(0, len(part), _CHUNK):
            if stop.is_set():
                raise DestinationDown("stopped by us")
            yield part[start : start + _CHUNK]

    body = MultipartBody(DICOM, [Part(DICOM, pieces(part), length=len(part)) for part in parts])
    headers = {"Content-Type": body.content_type, "Content-Length": str(body.length), "Accept": DICOM_JSON}
    with (
        translated(settings.timeout_seconds),
        client.stream("POST", "/studies", content=iter(body), headers=headers) as response,
    ):
        if not is_about_instances(response.status_code):
            raise DestinationDown(unusable(response))
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return read_answer(response.status_code, _read(response, settings.timeout_seconds), media_type)


def _read(response: httpx.Response, seconds: float) -> bytes:
    """The answer's body, in bounded time and memory."""
    content, deadline = b"", time.monotonic() + seconds
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > _LONGEST_ANSWER:
            raise DestinationDown("its answer is too long")
        if time.monotonic() > deadline:
            raise DestinationDown(f"no end of its answer within {seconds:g} s")
    return content
