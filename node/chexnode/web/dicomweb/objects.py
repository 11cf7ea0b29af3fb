"""The objects that WADO-RS serves, as files: found in the ledger, read from the spool."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.metadata import version
from mmap import mmap
from pathlib import Path
from typing import TypeVar

from chexnode.ledger.objects import StoredObject
from chexnode.node import Node
from chexnode.sandbox.limits import read_limits
from chexnode.web.access import note_opened
from chexnode.web.dicomweb.responses import Gone, NotFound
from chexnode.web.dicomweb.routes import Resource
from chexnode.web.dicomweb.stored import Stored, mapped

log = logging.getLogger(__name__)

_CHUNK = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Located:
    """What was asked for: the objects whose files are there, and how many are not any more."""

    objects: Sequence[StoredObject]
    written: Sequence[int]
    """When the file of each was, in ns since the epoch."""
    missing: int


class ObjectStore:
    """Finds and opens objects. Thread safe."""

    def __init__(self, node: Node) -> None:
        self._objects, self._spool = node.ledger.objects, node.spool
        self._version = version("chexnode")
        self.limits = read_limits(node.settings.limits)

    def find(self, resource: Resource) -> Located:
        """What is held of ``resource``. Raises NotFound, Gone where retention deleted all of it, and DiskRefused."""
        every = self._objects.locate(resource.study, resource.series, resource.instance, superseded=resource.superseded)
        if not every:
            raise NotFound
        present = [entry for recorded in every if (entry := self._present(recorded)) is not None]
        if not present:
            raise Gone
        return Located([one for one, _ in present], [since for _, since in present], len(every) - len(present))

    def instance(self, study: str, series: str, instance: str, *, superseded: bool = False) -> StoredObject:
        """One instance. Raises like :meth:`find`."""
        return self.find(Resource(study, series, instance, superseded)).objects[0]

    def _present(self, entry: StoredObject) -> tuple[StoredObject, int] | None:
        """``entry`` with the size that its file has, and when that was written; None where there is none.

        The ledger's is that of the file that came first. One that came later in its place may tell of another sender.
        """
        if entry.path is None:
            return None
        state = self._spool.state(entry.path)
        if state is None:
            log.error("a file that the ledger names is not there", extra={"path": entry.path})
            return None
        size, since = state
        return entry if size == entry.size else replace(entry, size=size), since

    def tag(self, entry: StoredObject, content_type: str) -> str:
        """The strong entity tag (RFC 9110 section 8.8.3) of what is made of the file in this form. Raises Gone.

        A file never changes under its name, but a copy may take the place of one that was lost; how it is converted
        and decoded may change with the release.
        """
        assert entry.path is not None
        state = self._spool.state(entry.path)
        if state is None:  # retention came between
            raise Gone
        return self._tag(entry, state[1], content_type)

    def tags(self, located: Located, content_type: str) -> list[str]:
        """:meth:`tag` of each object as it was found."""
        found = zip(located.objects, located.written, strict=True)
        return [self._tag(entry, since, content_type) for entry, since in found]

    def _tag(self, entry: StoredObject, since: int, content_type: str) -> str:
        facts = f"{entry.path} {since} {content_type} {self._version}"
        return f'"{blake2b(facts.encode(), digest_size=16).hexdigest()}"'

    def content(self, entry: StoredObject, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of the file from ``start`` to ``end``, piece by piece. Raises Gone before the first."""
        assert entry.path is not None
        try:
            file = self._spool.open(entry.path)
        except FileNotFoundError:  # retention came between
            raise Gone from None
        with file:
            note_opened(entry)
            if start:
                file.seek(start)
            left = (entry.size if end is None else end) - start
            while left > 0 and (chunk := file.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk

    def open(self, entry: StoredObject) -> Stored:
        """The file, walked within the limits; nothing of its pixels is in memory. Raises DecodeError and Gone."""
        return self._opened(entry, lambda path: Stored.open(path, self.limits))

    def mapped(self, entry: StoredObject) -> mmap:
        """The bytes of the file, not looked at. Raises DecodeError and Gone."""
        return self._opened(entry, mapped)

    def _opened(self, entry: StoredObject, how: Callable[[Path], T]) -> T:
        assert entry.path is not None
        try:
            opened = how(self._spool.path(entry.path).absolute())
        except FileNotFoundError:  # retention came between
            raise Gone from None
        note_opened(entry)
        return opened
