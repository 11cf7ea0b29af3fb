"""The card of a bundle: what a person must know before using the model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from chexmodels.bundle import RESEARCH_USE_ONLY, Manifest
from chextrain.evaluate import Evaluation, markdown
from chextrain.runs import Run


def card_text(manifest: Manifest, run: Run, results: Sequence[Evaluation], failures: str) -> str:
    """Markdown; ``{digest}`` in it is filled in when the bundle is written."""
    return f"""\
# {manifest.name} {manifest.version}

**{RESEARCH_USE_ONLY}.** Digest (model.json and weights): `{{digest}}`.

Architecture `{run.architecture}` {json.dumps(run.parameters)}, input {run.size} x {run.size} px.
Trained with

{_commands(run)}

## Data

{manifest.training_data}

{manifest.licence}

## Operating points

Fitted on the validation split; sensitivity and clean normals are its figures.

| | pixel threshold | smallest area, model px | image threshold | sensitivity | clean normals |
|---|---|---|---|---|---|
{_operating_points(manifest)}

Pixel temperature {manifest.calibration.temperature:.3f}; image score: Platt slope {manifest.calibration.slope:.3f},
intercept {manifest.calibration.intercept:.3f}.

## Results, beside the baselines that need no image

{_results(results)}

## Where it fails

{failures}
"""


def _commands(run: Run) -> str:
    return "\n".join(f"    {line}" for line in run.commands)


def _results(results: Sequence[Evaluation]) -> str:
    return "\n\n".join(markdown(result) for result in results)


def _operating_points(manifest: Manifest) -> str:
    return "\n".join(
        f"| {name} | {point.threshold:.3f} | {point.min_area} | {point.image_threshold:.3f} "
        f"| {point.sensitivity:.2f} | {point.clean_normals:.2f} |"
        for name, point in manifest.operating_points.items()
    )
