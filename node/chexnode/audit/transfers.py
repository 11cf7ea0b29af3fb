"""What came or went on one association, told as few messages: by study, patient and outcome, as A.5.3.7 wants it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator

from chexnode.audit.elements import MovedInstances
from chexnode.vocabulary.records import Subject

FLUSH_SECONDS = 10.0
"""An association that lasts is told of in parts, so that little is untold when its process is killed."""


class Transfers:
    """Counts. Not thread safe."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[Subject, bool | None], Counter[str]] = defaultdict(Counter)
        self._since = 0.0

    def add(self, subject: Subject, sop_class_uid: str, had_before: bool | None) -> None:
        """Count one instance; ``had_before``: whether its receiver had it, None if that is not known."""
        if not self._counts:
            self._since = time.monotonic()
        self._counts[subject, had_before][sop_class_uid] += 1

    def __bool__(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._counts)

    @property
    def due(self) -> bool:
        """Whether there is something that should wait no longer."""
        return bool(self._counts) and time.monotonic() - self._since > FLUSH_SECONDS

    def take(self) -> Iterator[tuple[MovedInstances, bool | None]]:
        """Yield (what was moved, ``had_before``) and forget it."""
        counts, self._counts = self._counts, defaultdict(Counter)
        for (subject, had_before), classes in counts.items():
            yield (
                MovedInstances(
                    subject.study_instance_uid,
                    subject.patient_id,
                    subject.patient_name,
                    subject.accession_number,
                    dict(classes),
                ),
                had_before,
            )
