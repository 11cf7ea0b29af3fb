"""Withdrawing by other means than a rejection note: by the DICOMweb of dcm4chee-arc, or by deletion.

A note is due to a destination like any result. Where its settings say so it is not sent, but carried out: for each
object that it names, one request. What is not there need not be withdrawn.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import httpx
from pydicom import dcmread
from pydicom.dataset import Dataset

from chexmodels.dicom.key_objects import KeyObject, KeyObjects, read_key_objects
from chexnode.deliver.destination import DeliveryAnswer, Destination, Interrupted, Outgoing, Sent, load
from chexnode.dicomweb.client import open_client, translated, unusable
from chexnode.dicomweb.stow_response import named
from chexnode.settings.destination import DestinationSettings
from chexnode.vocabulary.errors import DestinationDown
from chexnode.vocabulary.records import CommitmentRequest
from chexnode.vocabulary.variants import ResultKind

_DONE = frozenset({HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_NOT_OFFERED = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})

Request = Callable[[httpx.Client, KeyObjects, KeyObject], httpx.Response]
"""Withdraws one object that a note names, and returns the service's answer."""


class WithdrawingDestination:
    """A destination, and what carries out the notes that are due to it; all else goes to the destination itself."""

    def __init__(self, inner: Destination, withdraw: Callable[[Outgoing, KeyObjects], Sent]) -> None:
        self._inner, self._withdraw = inner, withdraw

    @property
    def name(self) -> str:
        return self._inner.name

    def send(self, items: Sequence[Outgoing]) -> Iterator[Sent]:
        """Carry out the notes among ``items``, send the others, and yield one answer each. Raises DestinationDown."""
        notes = [item for item in items if item.claim.kind is ResultKind.KO]
        for item in notes:
            content = load(item)
            if isinstance(content, Sent):
                yield content
            else:
                yield self._withdraw(item, read_key_objects(dcmread(BytesIO(content))))
        if results := [item for item in items if item.claim.kind is not ResultKind.KO]:
            yield from self._inner.send(results)

    def request_commitment(self, request: CommitmentRequest, on_report: Callable[[Dataset], int]) -> None:
        """Ask the destination itself for storage commitment. Raises DestinationDown."""
        self._inner.request_commitment(request, on_report)

    def close(self) -> None:
        """End what the destination itself keeps open."""
        self._inner.close()


def withdrawing(inner: Destination, settings: DestinationSettings, tls: ssl.SSLContext | None) -> Destination:
    """``inner`` with the way of withdrawing that ``settings`` name; itself where notes are sent as they are."""
    if settings.withdraw == "delete" and settings.kind == "folder":
        assert settings.path is not None
        return WithdrawingDestination(inner, _Unlinking(settings.path))
    if settings.withdraw in ("delete", "dcm4chee-reject"):
        service = settings.model_copy(update={"url": settings.withdraw_url or settings.url})
        offered = _reject if settings.withdraw == "dcm4chee-reject" else _delete
        return WithdrawingDestination(
            inner, _Requesting(service, _orthanc if settings.withdraw_by_orthanc else offered, tls)
        )
    return inner


class _Requesting:
    """By one request for each object."""

    def __init__(self, service: DestinationSettings, request: Request, tls: ssl.SSLContext | None) -> None:
        self._service, self._request, self._tls = service, request, tls

    def __call__(self, item: Outgoing, note: KeyObjects) -> Sent:
        try:
            with open_client(self._service, self._tls) as client, translated(self._service.timeout_seconds):
                for one in note.objects:
                    answer = self._request(client, note, one)
                    status = answer.status_code
                    if status in _NOT_OFFERED:
                        return Sent(
                            item, DeliveryAnswer.DEAD, f"it does not withdraw objects so: {named(status)}", status
                        )
                    if status not in _DONE:
                        raise DestinationDown(unusable(answer))
        except DestinationDown as down:
            raise Interrupted(f"{down.why}, during a withdrawal", item) from down
        return Sent(item, DeliveryAnswer.ACCEPTED, f"{len(note.objects)} object(s) withdrawn", HTTPStatus.OK)


def _reject(client: httpx.Client, note: KeyObjects, one: KeyObject) -> httpx.Response:
    """dcm4chee-arc's "Reject Instance", by the code that is the note's title."""
    return client.post(f"{_instance(one)}/reject/{quote('^'.join(note.title))}")


def _delete(client: httpx.Client, note: KeyObjects, one: KeyObject) -> httpx.Response:
    """DELETE of the instance's resource: no transaction of PS3.18, but what Google's and Microsoft's services offer."""
    return client.delete(_instance(one))


def _orthanc(client: httpx.Client, note: KeyObjects, one: KeyObject) -> httpx.Response:
    """Orthanc's own interface: find the instance by its UID, and delete it."""
    answer = client.post("/tools/lookup", content=one.sop_instance_uid)
    if answer.status_code != HTTPStatus.OK:
        return answer
    found: list[Mapping[str, str]] = answer.json()
    for resource in found:
        if resource.get("Type") == "Instance":
            answer = client.delete(f"/instances/{quote(resource['ID'])}")
    return answer


def _instance(one: KeyObject) -> str:
    return f"/studies/{one.study_instance_uid}/series/{one.series_instance_uid}/instances/{one.sop_instance_uid}"


class _Unlinking:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, item: Outgoing, note: KeyObjects) -> Sent:
        if not self._folder.is_dir():
            raise DestinationDown(f"the folder {self._folder} does not exist: is the share mounted?")
        try:
            for one in note.objects:
                with suppress(FileNotFoundError):
                    (self._folder / f"{one.sop_instance_uid}.dcm").unlink()
        except OSError as error:
            raise Interrupted(f"cannot delete in {self._folder}: {error.strerror}", item) from error
        return Sent(item, DeliveryAnswer.ACCEPTED, f"{len(note.objects)} file(s) deleted")
