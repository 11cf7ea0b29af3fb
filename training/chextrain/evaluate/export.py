"""From a finished run to a bundle: round to fp16, calibrate and draw the lines on validation, write the card."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from chexmodels.bundle import RESEARCH_USE_ONLY, Manifest, ModelCard, write_bundle
from chexmodels.registry import serialise
from chextrain.data.cases import Collection
from chextrain.evaluate.calibrate import CLEAN_NORMALS, decide
from chextrain.evaluate.card import card_text
from chextrain.evaluate.judge import Judge
from chextrain.evaluate.predict import device, logits
from chextrain.evaluate.subjects import Subject, variant_of
from chextrain.runs import Run


def export(
    run: Run,
    network: nn.Module,
    out: Path,
    name: str,
    version: str,
    failures: str,
    collection: Collection,
    cache: Path | None = None,
    clean_normals: float = CLEAN_NORMALS,
) -> ModelCard:
    """Write the bundle of ``network``, made by ``run``, to ``out``; :func:`chextrain.runs.committee` gives both.

    Everything is fitted on the validation images of ``collection``; the test images are scored once, for the card.
    ``failures`` is the card's prose on where the model fails, which no program knows; ``clean_normals`` is what the
    second reader's operating point promises. Raises ``NothingToFit``.
    """
    network = network.half().float().to(device())  # what the bundle will hold
    val, test = (Judge(collection, split, cache, collection) for split in ("val", "test"))
    arrays = val.split(run.size).arrays
    decision = decide(logits(network, arrays), arrays, clean_normals)
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        architecture=run.architecture,
        parameters=run.parameters,
        size=run.size,
        geometry="letterbox",
        heat_kind="probability",
        classes=(),
        calibration=decision.calibration,
        operating_points=decision.points,
        weights_sha256="0" * 64,
        licence=collection.licence,
        intended_use=RESEARCH_USE_ONLY,
        training_data=collection.description,
    )
    subject = Subject(
        f"{name} {version}",
        run.architecture,
        variant_of(run.architecture, run.parameters),
        "",
        network,
        run.size,
        decision.calibration,
        decision.points,
    )
    text = card_text(manifest, run, decision, val.of(subject).evaluation, test.of(subject).evaluation, failures)
    return write_bundle(out, manifest, serialise(network), text)
