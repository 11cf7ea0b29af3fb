"""From a finished run to a bundle: round to fp16, calibrate and draw the lines on validation, write the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from chexmodels.bundle import RESEARCH_USE_ONLY, AnomalyCalibration, Manifest, ModelCard, write_bundle
from chexmodels.registry import heat_kind, serialise
from chextrain.data.arrays import load
from chextrain.data.cases import Collection
from chextrain.evaluate import markdown
from chextrain.evaluate.calibrate import CLEAN_NORMALS, Decision, decide
from chextrain.evaluate.evaluation import MEAN_MASK, Evaluation
from chextrain.evaluate.fit_scope import OUT
from chextrain.evaluate.fit_scope import fit as fit_scope
from chextrain.evaluate.markdown import grid
from chextrain.evaluate.models import ScoredModel, variant_of
from chextrain.evaluate.predict import device, logits
from chextrain.evaluate.scored_split import NothingToScore
from chextrain.evaluate.scoring import Scorer
from chextrain.runs import Run

LEARNT_OTHERWISE: Mapping[str, tuple[str, ...]] = {
    "ddad": (
        "This model used no box: its module A learnt from all training images, B from those labelled normal; boxes and "
        "expert-read normal images of the validation split set its lines.",
    )
}
"""Recipe -> what the description of the data set does not say of what it learnt from."""


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
    anyway: bool = False,
) -> ModelCard:
    """Write the bundle of ``network``, made by ``run``, to ``out``; :func:`chextrain.runs.committee` gives both.

    Everything is fitted on the validation images of ``collection``; the test images are scored once, for the card.
    ``failures`` is the card's prose on where the model fails, which no program knows; ``clean_normals`` is what the
    second reader's operating point promises. Raises ``NothingToFit``, and ``NotWorthIt`` for a model that
    :func:`faults` has something against, unless it is to be written ``anyway``.
    """
    network = network.half().float().to(device())  # what the bundle will hold
    val, test = (Scorer(collection, split, cache, collection) for split in ("val", "test"))
    arrays = val.split(run.size).arrays
    decision = decide(logits(network, arrays), arrays, clean_normals, heat_kind(run.architecture))
    learnt = load(collection, "train", run.size, cache)
    scope = fit_scope(network, learnt.where([case.localised for case in learnt.cases]), arrays)
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        architecture=run.architecture,
        parameters=run.parameters,
        size=run.size,
        geometry="letterbox",
        heat_kind=heat_kind(run.architecture),
        classes=(),
        calibration=decision.calibration,
        operating_points=decision.points,
        scope=scope[0] if scope else None,
        weights_sha256="0" * 64,
        licence=collection.licence,
        intended_use=RESEARCH_USE_ONLY,
        training_data="\n".join([collection.description, *LEARNT_OTHERWISE.get(run.recipe, ())]),
    )
    model = ScoredModel(
        f"{name} {version}",
        run.architecture,
        variant_of(run.architecture, run.parameters),
        "",
        network,
        run.size,
        str(run.parameters.get("backbone", "")),
        decision.calibration,
        decision.points,
    )
    on_val = val.score(model).evaluation
    against = faults(on_val, decision)
    if against and not anyway:
        raise NotWorthIt(f"{'; '.join(against)}: --anyway exports it all the same")
    failures = "\n\n".join([*(f"**On the validation split, {fault}.**" for fault in against), failures])
    text = card_text(manifest, run, decision, on_val, test.score(model).evaluation, failures)
    return write_bundle(out, manifest, serialise(network, scope[1] if scope else None), text)


class NotWorthIt(NothingToScore):
    """A model that no node should run; the message says why."""


def faults(val: Evaluation, decision: Decision) -> list[str]:
    """What speaks against a model, on the validation split: a line that marks nothing, or less than a map without any
    network gives."""
    found = [
        f"the operating point {name} marks nothing" for name, point in decision.points.items() if not point.sensitivity
    ]
    own = val.rows[next(iter(decision.points))]["pixel_ap"].value
    mean = val.rows[MEAN_MASK]["pixel_ap"].value
    if own < mean:
        found.append(f"pixel AP is {own:.2f}, and of the mean training mask {mean:.2f}")
    return found


def card_text(
    manifest: Manifest, run: Run, decision: Decision, val: Evaluation, test: Evaluation, failures: str
) -> str:
    """Markdown; ``{digest}`` in it is filled in when the bundle is written."""
    return f"""\
# {manifest.name} {manifest.version}

**{manifest.intended_use}.** Digest (model.json and weights): `{{digest}}`.

It marks where on a frontal chest radiograph something may be abnormal, whatever it is, and gives the image a score. It
names no disease, and has not been evaluated by any authority. A missing mark does not mean that nothing is there.

Architecture `{run.architecture}` {json.dumps(run.parameters)}, input {run.size} x {run.size} px.
Trained with

{_commands(run)}

## Data

{manifest.training_data}

{manifest.licence}

## Operating points

Fitted on the validation split; the last two columns are its figures. A pixel is marked if it reaches the pixel
threshold and the given share of the image's highest probability, in an image that reaches the image threshold.

{_operating_points(manifest)}

{_calibration(manifest)}

{_scope(manifest)}

What clean normals cost on validation: the best box IoU with one threshold for all images, and with one that follows
each image's peak.

{_tradeoff(decision)}

## Results on the test split, beside what needs no network

{markdown.markdown(test)}

## Results on the validation split, on which the above was fitted

{markdown.rows(val)}

{markdown.shortcuts(val)}

## Where it fails

{failures}
"""


def _commands(run: Run) -> str:
    return "\n".join(f"    {line}" for line in run.commands)


def _operating_points(manifest: Manifest) -> str:
    head = ("", "pixel threshold", "of the peak", "smallest area, model px", "image threshold")
    rows = [
        [
            name,
            f"{point.threshold:.3f}",
            f"{point.relative_threshold:.2f}",
            str(point.min_area),
            f"{point.image_threshold:.3f}",
            f"{point.sensitivity:.2f}",
            f"{point.clean_normals:.2f}",
        ]
        for name, point in manifest.operating_points.items()
    ]
    return grid([*head, "sensitivity", "clean normals"], rows)


def _calibration(manifest: Manifest) -> str:
    fitted = manifest.calibration
    if isinstance(fitted, AnomalyCalibration):
        return (
            "The heat is the share of the pixels of normal validation images that have less, the image score one minus "
            f"an empirical p-value among {len(fitted.normals)} of them. Neither is a probability, so that Brier score "
            "and calibration error below say nothing."
        )
    text = f"Pixel temperature {fitted.temperature:.3f}; image score: "
    if fitted.knots:
        return f"{text}isotonic regression, {len(fitted.knots)} knots."
    return f"{text}Platt slope {fitted.slope:.3f}, intercept {fitted.intercept:.3f}."


def _scope(manifest: Manifest) -> str:
    if manifest.scope is None:
        return "It cannot tell whether an image is of the kind that it learnt from."
    return (
        f"It answers only for images like those it learnt from. Out of scope is what lies farther from them than "
        f"{manifest.scope.threshold:.2f}, as {OUT:.1%} of the validation images do: Mahalanobis distance of the mean "
        f"maps of layer `{manifest.scope.layer}`."
    )


def _tradeoff(decision: Decision) -> str:
    rows = [
        [
            f"{share:.0%}",
            *(f"{value:.2f}" for one in pair for value in (one.box_iou, one.point.sensitivity)),
        ]
        for share, *pair in decision.tradeoff
    ]
    head = ["clean normals, at least", "one threshold: box IoU", "sensitivity", "of the peak: box IoU", "sensitivity"]
    return grid(head, rows)
