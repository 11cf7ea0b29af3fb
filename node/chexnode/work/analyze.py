"""``chexnode analyze``: the worker's pipeline on files, without ledger, broker or network."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import numpy as np
from PIL import Image
from pydantic_core import to_json
from pydicom import Dataset

from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.part10 import read
from chexmodels.dicom.plain import as_part10
from chexmodels.finding import Findings
from chexmodels.pixels import from_picture
from chexnode.deliver.routing import DEFAULT_VARIANTS
from chexnode.encode.caption import caption
from chexnode.encode.picture import lay_out, render
from chexnode.node import job_spec
from chexnode.sandbox.limits import read_limits
from chexnode.settings.tree import Settings
from chexnode.triage.gate import triage_header
from chexnode.vocabulary.errors import BadEnvironment, Refused, Transient
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import JobSpec, Verdict
from chexnode.vocabulary.reports import FileReport, RegionReport
from chexnode.vocabulary.states import InstanceState, JobState
from chexnode.vocabulary.variants import GspsForm, ScForm, Variant
from chexnode.work.pipeline import Pipeline, open_pipeline
from chexnode.work.prepared import Prepared, prepare_image

log = logging.getLogger(__name__)

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_SUFFIXES = frozenset({".dcm", ".dicom", ".png", ".jpg", ".jpeg"})
_JSON, _HEAT, _OVERLAY = ".json", ".npz", ".overlay.png"
#: The objects of one image, and the ends of their files' names.
_OBJECTS: Mapping[Variant, str] = {
    **{variant: f".{variant.kind}.dcm" for variant in DEFAULT_VARIANTS},
    Variant(GspsForm()): ".pr.dcm",
}
_HEAT_MAP = Variant(ScForm(is_heat_map=True))
_HEAT_OBJECT = ".heat.dcm"
_LONGEST_PLAIN = 500_000_000
"""Bytes of a file that is looked at for a data set without file meta information."""
_OUTPUTS = (_JSON, _HEAT, _OVERLAY, _HEAT_OBJECT, *_OBJECTS.values())


@dataclass(frozen=True, slots=True)
class _Item:
    """One file on its way; without ``prepared`` its report is final."""

    report: FileReport
    stem: str
    prepared: Prepared | None = None
    key: str = ""
    """In place of a job's: result UIDs derive from it. Empty for a PNG or JPEG."""
    findings: Findings | None = None


def analyze(settings: Settings, files: Sequence[Path], out: Path, heat: bool) -> Iterator[FileReport]:
    """Analyse ``files`` in batches, write the results of each into ``out``, and yield a report of each, in order.

    ``heat``: also write STEM.npz with ``heat`` (H, W) float16 in [0, 1] and ``score``, and of a DICOM image its heat
    map as STEM.heat.dcm. A file that fails has its report like any other. Raises BadEnvironment if the model cannot be
    loaded or ``out`` cannot be written.
    """
    spec = job_spec(settings)
    # One time for the whole run. It goes into the results and into their UIDs, so that no two runs share a UID.
    now = datetime.now(UTC)
    named = list(zip(files, _stems(files, out), strict=True))
    size = settings.worker.batch_size
    with (
        open_pipeline(settings, spec) as pipeline,
        ThreadPoolExecutor(settings.worker.decoders) as decoding,
        TemporaryDirectory(prefix="chexnode-") as copies,
    ):
        run = _Run(settings, spec, pipeline, now, Path(copies))
        try:
            out.mkdir(parents=True, exist_ok=True)
            for start in range(0, len(named), size):
                for item in run.infer(list(decoding.map(run.prepare, *zip(*named[start : start + size], strict=True)))):
                    yield run.write(item, out, heat)
        except OSError as error:
            raise BadEnvironment(f"cannot write to {out}: {error.strerror}") from error


class _Run:
    """The stages, with what all files of one call share."""

    def __init__(self, settings: Settings, spec: JobSpec, pipeline: Pipeline, now: datetime, copies: Path) -> None:
        self._settings, self._spec, self._pipeline, self._now = settings, spec, pipeline, now
        self._copies = copies
        self._limits = read_limits(settings.limits)

    def prepare(self, file: Path, stem: str) -> _Item:
        """Gate and decode. Never raises."""
        started = time.monotonic()
        report = self._blank(file)
        item = _Item(report, stem)
        try:
            if _is_picture(file):
                item = replace(item, prepared=self._picture(file))
            else:
                file = self._with_meta(file)
                header, digest, verdict = self._look(file)
                uid = str(header.get("SOPInstanceUID", ""))
                report = replace(report, sop_instance_uid=uid, notes=[str(note) for note in verdict.notes])
                if verdict.state is InstanceState.ANALYSABLE:
                    key = hashlib.sha256(f"{self._spec.key(uid, digest)} {self._now.isoformat()}".encode()).hexdigest()
                    prepared = self._pipeline.prepare(file)
                    prepared = replace(prepared, notes=(*report.notes, *prepared.notes))
                    item = replace(item, prepared=prepared, key=key)
                else:
                    report = replace(report, state=verdict.state, reason=verdict.reason, error=verdict.detail)
        except Exception as error:
            report = _failed(report, error)
        return replace(item, report=replace(report, seconds=time.monotonic() - started))

    def infer(self, batch: Sequence[_Item]) -> list[_Item]:
        """Run what was prepared as one batch; if that fails, each alone, so that one cannot fail the others."""
        started = time.monotonic()
        prepared = [item.prepared for item in batch if item.prepared is not None]
        if not prepared:
            return list(batch)
        try:
            raws = self._pipeline.infer(prepared)
            found = iter([self._pipeline.interpret(p, raw) for p, raw in zip(prepared, raws, strict=True)])
        except Exception as error:
            if len(batch) > 1:
                return [one for item in batch for one in self.infer([item])]
            (failed,) = batch
            return [replace(failed, report=_failed(failed.report, error), prepared=None)]
        share = (time.monotonic() - started) / len(prepared)
        return [
            replace(item, findings=next(found), report=replace(item.report, seconds=item.report.seconds + share))
            if item.prepared is not None
            else item
            for item in batch
        ]

    def write(self, item: _Item, out: Path, heat: bool) -> FileReport:
        """Encode and write the results, and the report last. Raises OSError where ``out`` takes no more."""
        started = time.monotonic()
        report, outputs = item.report, dict[str, bytes]()
        if item.findings is not None:
            try:
                outputs = self._outputs(item, heat)
                report = _done(report, item.findings)
            except Exception as error:
                report = _failed(report, error)
        for name, content in outputs.items():
            _write(out / name, content)
        seconds = round(report.seconds + time.monotonic() - started, 3)
        report = replace(report, outputs=sorted(outputs), seconds=seconds)
        _write(out / (item.stem + _JSON), to_json(report, indent=2, inf_nan_mode="null") + b"\n")
        return report

    def _outputs(self, item: _Item, heat: bool) -> dict[str, bytes]:
        """File name -> content."""
        assert item.prepared is not None
        assert item.findings is not None
        outputs: dict[str, bytes] = {}
        if item.key:
            ends = {**_OBJECTS, _HEAT_MAP: _HEAT_OBJECT} if heat else _OBJECTS
            for one in self._pipeline.encode(item.prepared, item.findings, item.key, self._now, tuple(ends)):
                outputs[item.stem + ends[one.variant]] = one.data
        else:
            texts = caption(item.findings, self._pipeline.provenance("", self._now))
            layout = lay_out(item.prepared.display.shape, texts)
            picture = Image.fromarray(render(item.prepared.display, item.findings, layout))
            buffer = BytesIO()
            picture.save(buffer, "PNG")
            outputs[item.stem + _OVERLAY] = buffer.getvalue()
        if heat and item.findings.heat is not None:
            buffer = BytesIO()
            np.savez_compressed(
                buffer, heat=item.findings.heat.astype(np.float16), score=np.float32(item.findings.score)
            )
            outputs[item.stem + _HEAT] = buffer.getvalue()
        return outputs

    def _picture(self, file: Path) -> Prepared:
        card = self._pipeline.engine.card
        prepared = prepare_image(from_picture(file, self._limits.max_pixels), card.size, card.geometry, Dataset())
        return self._pipeline.accept(prepared)

    def _with_meta(self, file: Path) -> Path:
        """``file``, or where it lacks preamble or file meta information a copy that has them."""
        if file.stat().st_size > _LONGEST_PLAIN:
            return file
        part10 = as_part10(file.read_bytes(), self._limits)
        if part10 is None:
            return file
        copy = self._copies / f"{uuid4().hex}.dcm"
        copy.write_bytes(part10)
        return copy

    def _look(self, file: Path) -> tuple[Dataset, str, Verdict]:
        """The header, the data set's digest as the receiver would make it, and the gate's verdict."""
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size == 0:
                raise DecodeError(DecodeFailure.MALFORMED, "the file is empty")
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        part10 = read(memoryview(content), self._limits)
        header = part10.header
        digest = hashlib.sha256(memoryview(content)[132 + len(part10.encoded_file_meta) :]).hexdigest()
        verdict = triage_header(
            header,
            self._settings.gate,
            has_pixel_data=part10.pixel_data is not None,
            max_pixels=self._limits.max_pixels,
            sop_class_uid=str(part10.file_meta.get("MediaStorageSOPClassUID", "")),
            transfer_syntax_uid=part10.file_meta.TransferSyntaxUID,
            flaws=part10.scan.flaws,
            rules=self._settings.rule,
        )
        return header, digest, verdict

    def _blank(self, file: Path) -> FileReport:
        return FileReport(
            file=os.fspath(file),
            sop_instance_uid=None,
            state=JobState.RUNNING,
            reason=None,
            error=None,
            score=None,
            abnormal=None,
            regions=[],
            notes=[],
            model=self._spec.model,
            model_digest=self._spec.model_digest,
            seconds=0.0,
            outputs=[],
        )


def _done(report: FileReport, findings: Findings) -> FileReport:
    return replace(
        report,
        state=JobState.DONE,
        score=findings.score,
        abnormal=findings.abnormal,
        regions=[
            RegionReport((r.box.x0, r.box.y0, r.box.x1, r.box.y1), r.area, r.peak, r.mean) for r in findings.regions
        ],
        notes=list(dict.fromkeys((*report.notes, *findings.notes))),
    )


def _failed(report: FileReport, error: Exception) -> FileReport:
    """The class decides, as everywhere."""
    if isinstance(error, Refused):
        return replace(report, state=JobState.REFUSED, reason=error.reason, error=error.detail or error.reason.value)
    if isinstance(error, DecodeError):
        unsound = error.failure in (DecodeFailure.MALFORMED, DecodeFailure.TOO_DEEP)
        state = InstanceState.QUARANTINED if unsound else JobState.REFUSED
        return replace(report, state=state, reason=Reason(error.failure), error=error.detail)
    if isinstance(error, OSError):
        return replace(report, state=JobState.REFUSED, reason=Reason.SOURCE_MISSING, error=error.strerror)
    if isinstance(error, Transient):
        return replace(report, state=JobState.FAILED, error=str(error))
    log.exception("%s failed", report.file, exc_info=error)
    return replace(report, state=JobState.FAILED, error=f"a bug: {type(error).__name__}")


def _stems(files: Sequence[Path], out: Path) -> list[str]:
    """A stem for each file under which no output meets another file's, or one of the inputs."""
    inputs = {file.resolve() for file in files}
    taken: set[str] = set()
    stems = []
    for file in files:
        plain = (file.stem if file.suffix.lower() in _SUFFIXES else file.name) or "file"
        for number in count(1):
            stem = plain if number == 1 else f"{plain}-{number}"
            if stem not in taken and not any((out / (stem + end)).resolve() in inputs for end in _OUTPUTS):
                break
        taken.add(stem)
        stems.append(stem)
    return stems


def _is_picture(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(8).startswith(_PICTURES)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
