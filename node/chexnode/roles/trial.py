"""What the node would do with an image, without doing it: for a site that writes rules and words of its own."""

from __future__ import annotations

import mmap
from pathlib import Path

from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import read
from chexmodels.dicom.values import text
from chexnode.deliver.routing import routes
from chexnode.sandbox.limits import read_limits
from chexnode.settings.tree import Settings
from chexnode.triage.gate import triage_header
from chexnode.triage.rules import deciding_rule
from chexnode.vocabulary.errors import BadEnvironment, Usage
from chexnode.vocabulary.reports import Trial
from chexnode.vocabulary.states import InstanceState


def trial(settings: Settings, file: Path, calling_ae_title: str = "") -> Trial:
    """Say what the gate decides on the header of ``file``, by which evidence and rule, and where results would go.

    ``calling_ae_title``: as if it had come from there. Raises BadEnvironment if the file cannot be read, and Usage
    if it is no DICOM file.
    """
    try:
        with file.open("rb") as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        part10 = read(memoryview(content), read_limits(settings.limits))
    except DecodeError as error:
        raise Usage(f"{file}: {error.detail}") from error
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise BadEnvironment(f"{file}: {error}") from error
    verdict = triage_header(
        part10.header,
        settings.gate,
        has_pixel_data=part10.pixel_data is not None,
        max_pixels=settings.limits.max_pixels,
        sop_class_uid=text(part10.file_meta, "MediaStorageSOPClassUID", (), 128) or "",
        transfer_syntax_uid=part10.file_meta.TransferSyntaxUID,
        rules=settings.rule,
        calling_ae_title=calling_ae_title,
    )
    rule = deciding_rule(settings.rule, part10.header, calling_ae_title)
    analysed = verdict.state is InstanceState.ANALYSABLE
    places = {
        abnormal: dict.fromkeys(
            route.destination for route in routes(settings.destination, calling_ae_title, abnormal, rule)
        )
        for abnormal in (True, False)
    }
    return Trial(
        file=str(file),
        state=verdict.state,
        reason=verdict.reason,
        detail=verdict.detail,
        notes=[str(note) for note in verdict.notes],
        priority=verdict.priority,
        rule=None if rule is None else rule.name,
        destinations=list(places[True]) if analysed else [],
        destinations_without_finding=list(places[False]) if analysed else [],
    )
