"""One image from its file to its encoded results; the same for a job and for ``chexnode analyze``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from chexmodels import bundle
from chexmodels.dicom.key_objects import KeyObject
from chexmodels.finding import Findings
from chexmodels.interpret import interpret, is_out_of_scope
from chexmodels.model import RawItem
from chexnode.encode.objects import Encoded, encode
from chexnode.encode.provenance import Provenance
from chexnode.encode.source import sanitise
from chexnode.settings.gate import GateSettings
from chexnode.settings.model import ModelSettings
from chexnode.settings.tree import Settings
from chexnode.triage.gate import settle, triage_pixels
from chexnode.vocabulary.errors import BadEnvironment, Refused
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.records import Digests, Figures, JobSpec
from chexnode.vocabulary.series import SeriesNames
from chexnode.vocabulary.variants import Variant
from chexnode.work.digests import digests_of
from chexnode.work.engine import Engine
from chexnode.work.prepared import Prepared
from chexnode.work.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of an analysis. Thread safe."""

    sandbox: Sandbox
    engine: Engine
    settings: ModelSettings
    series: SeriesNames
    model_digest: str
    gate: GateSettings

    def prepare(self, path: Path) -> Prepared:
        """Decode in the sandbox and look at the pixels. Raises Refused or Transient."""
        return self.accept(self.sandbox.prepare(path))

    def accept(self, prepared: Prepared) -> Prepared:
        """Look at the pixels, and add what is noted about them. Raises Refused."""
        reason, notes = triage_pixels(prepared.stats, self.gate)
        if reason is not None:
            raise Refused(reason)
        return replace(prepared, notes=tuple(dict.fromkeys((*prepared.notes, *notes))))

    def digests(self, prepared: Prepared) -> Digests:
        """What the results of the image will follow from."""
        return digests_of(prepared)

    def figures(self, prepared: Prepared, findings: Findings) -> Figures:
        """What is watched for drift."""
        pixels = prepared.geometry.rows * prepared.geometry.columns
        area = sum(region.area for region in findings.regions) / pixels
        return Figures(area, float(prepared.image.mean()), float(prepared.image.std()))

    def infer(self, prepared: Sequence[Prepared]) -> list[RawItem]:
        """Run images as one batch. Raises Transient when the device lacks memory."""
        return self.engine.infer([p.image for p in prepared])

    def interpret(self, prepared: Prepared, raw: RawItem) -> Findings:
        """What the model's answer says of the image; a doubtful one is not evaluated.

        Raises Refused for one unlike those that the model learnt from, where ``[gate] out_of_distribution`` says so.
        """
        if self.gate.out_of_distribution == "refuse" and is_out_of_scope(raw, self.engine.card):
            raise Refused(Reason.OUT_OF_SCOPE, "the model finds it unlike the images that it learnt from")
        found = interpret(raw, self.engine.card, self.settings.operating_point, prepared.geometry)
        return settle(replace(found, notes=tuple(dict.fromkeys((*prepared.notes, *found.notes)))))

    def encode(
        self,
        prepared: Prepared,
        findings: Findings,
        key: str,
        created_at: datetime,
        wanted: Sequence[Variant],
        predecessors: tuple[KeyObject, ...] = (),
    ) -> list[Encoded]:
        """Write the wanted objects. ``key``: of the job; ``created_at``: the one time that goes into them.

        ``predecessors``: the reports that a new one takes the place of.
        """
        provenance = replace(self.provenance(key, created_at), predecessors=predecessors)
        source = sanitise(prepared.header, prepared.choice, prepared.window, prepared.overlays)
        return encode(source, prepared.display, findings, provenance, wanted)

    def provenance(self, key: str, created_at: datetime) -> Provenance:
        """Who made the results of job ``key``, when and how."""
        card = self.engine.card
        return Provenance(
            job_key=key,
            model_name=card.name,
            model_version=card.version,
            model_digest=self.model_digest,
            operating_point=self.settings.operating_point,
            threshold=card.operating_points[self.settings.operating_point].threshold,
            software_version=version("chexnode"),
            created_at=created_at.astimezone(),
            heat_kind=card.heat_kind,
            series=self.series,
            image_threshold=card.operating_points[self.settings.operating_point].image_threshold,
            class_thresholds=card.operating_points[self.settings.operating_point].classes,
        )


@contextmanager
def open_pipeline(settings: Settings, spec: JobSpec, model: ModelSettings | None = None) -> Iterator[Pipeline]:
    """Load ``model``, or that which delivers, and start the sandbox.

    Raises BadEnvironment if the model cannot be loaded or is no longer the one that ``spec`` names.
    """
    model = model or settings.model
    folder = bundle.find(model.bundle)
    engine = Engine(folder, model.device, model.engine)
    if bundle.digest(folder) != spec.model_digest:
        raise BadEnvironment("the model changed while it was being loaded")
    with Sandbox(settings.limits, engine.card.size, engine.card.geometry, settings.worker.decoders) as sandbox:
        yield Pipeline(sandbox, engine, model, settings.series.names, spec.model_digest, settings.gate)
