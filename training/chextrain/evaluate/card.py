"""The card of a bundle: what a person must know before using the model."""

from __future__ import annotations

import json

from chexmodels.bundle import Manifest
from chextrain.evaluate import sound
from chextrain.evaluate.calibrate import Decision
from chextrain.evaluate.evaluation import Evaluation
from chextrain.evaluate.tables import grid
from chextrain.runs import Run


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

What clean normals cost on validation: the best box IoU with one threshold for all images, and with one that follows
each image's peak.

{_tradeoff(decision)}

## Results on the test split, beside what needs no network

{sound.markdown(test)}

## Results on the validation split, on which the above was fitted

{sound.rows(val)}

{sound.shortcuts(val)}

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
    text = f"Pixel temperature {fitted.temperature:.3f}; image score: "
    if fitted.knots:
        return f"{text}isotonic regression, {len(fitted.knots)} knots."
    return f"{text}Platt slope {fitted.slope:.3f}, intercept {fitted.intercept:.3f}."


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
