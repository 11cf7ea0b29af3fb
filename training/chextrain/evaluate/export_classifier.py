"""From a finished run of a classifier to a bundle: calibrate each class, draw its lines, write the card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch import nn

from chexmodels.bundle import RESEARCH_USE_ONLY, Calibration, Manifest, ModelCard, OperatingPoint, write_bundle
from chexmodels.calibration import image_probability
from chexmodels.nets.embedding import EmbeddingClassifier
from chexmodels.registry import heat_kind, serialise
from chextrain.data.arrays import load
from chextrain.data.cases import Case, Collection
from chextrain.evaluate.calibrate import SENSITIVITY, NothingToFit, platt
from chextrain.evaluate.classes import ALL, ClassReport, class_logits, report
from chextrain.evaluate.export import NotWorthIt
from chextrain.evaluate.markdown import grid
from chextrain.evaluate.predict import device
from chextrain.runs import Run

LEAST = 5
"""Validation images with a class, and without it, from which on its line is drawn there."""
SPECIFICITY = 0.9
"""Of each class at the operating point ``second_reader``; ``triage`` has ``SENSITIVITY``."""
LABELS = (
    "This model used no box: its classes are what was mined from the reports, which is wrong for about one label in "
    "ten (Wang et al., 2017), and an image whose report names nothing may show anything."
)


def export_classifier(
    run: Run,
    network: nn.Module,
    out: Path,
    name: str,
    version: str,
    failures: str,
    collection: Collection,
    cache: Path | None = None,
    clean_normals: float = 0.8,
    anyway: bool = False,
) -> ModelCard:
    """Write the bundle of ``network``, made by ``run``, to ``out``.

    On the validation images of ``collection`` each class gets slope and intercept (Platt), which go into the last
    layer, and the image's score, the highest of its classes', gets its own; ``clean_normals`` is what ``second_reader``
    promises of that. The test images are scored once, for the card. Raises ``NothingToFit`` without expert normals, and
    ``NotWorthIt`` for a macro AUC on validation that chance may give, unless it is to be written ``anyway``.
    """
    network = cast(EmbeddingClassifier, network.half().float().to(device()))
    val, test = (load(collection, split, run.size, cache) for split in ("val", "test"))
    learnt = collection.split("train")
    names = network.findings
    truth = val.classes(names)
    slopes, intercepts = calibrations(class_logits(network, val), truth)
    with torch.no_grad():
        network.classes.weight.mul_(torch.from_numpy(slopes).to(network.classes.weight)[:, None])
        network.classes.bias.mul_(torch.from_numpy(slopes).to(network.classes.bias))
        network.classes.bias.add_(torch.from_numpy(intercepts).to(network.classes.bias))
    network = network.half().float()
    on_val = class_logits(network, val)
    evaluated = report(name, f"{collection.name}, val", on_val, val.cases, names, learnt)
    lines = draw(expit(on_val), truth, names, val.cases, clean_normals)
    against = []
    if not evaluated.macro[ALL].low > 0.5:
        against.append(f"the macro AUC is {evaluated.macro[ALL]}")
    if against and not anyway:
        raise NotWorthIt(f"{'; '.join(against)} on validation: --anyway exports it all the same")
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        architecture=run.architecture,
        parameters=run.parameters,
        size=run.size,
        geometry="letterbox",
        heat_kind=heat_kind(run.architecture),
        classes=names,
        calibration=lines.calibration,
        operating_points=lines.points,
        weights_sha256="0" * 64,
        licence=collection.licence,
        intended_use=RESEARCH_USE_ONLY,
        training_data=f"{collection.description}\n{LABELS}",
    )
    tested = report(name, f"{collection.name}, test", class_logits(network, test), test.cases, names, learnt)
    failures = "\n\n".join([*(f"**On the validation split, {fault}.**" for fault in against), failures])
    return write_bundle(out, manifest, serialise(network), _card(manifest, run, lines, evaluated, tested, failures))


def calibrations(
    logits: NDArray[np.float32], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and intercept ``(C,)`` of each class's logits ``(N,C)``.

    A class with fewer than ``LEAST`` images gets the median slope, and the intercept that makes its mean probability
    the share of images with it, plus a half of an image.
    """
    enough = [k for k in range(truth.shape[1]) if LEAST <= truth[:, k].sum() <= len(truth) - LEAST]
    fitted = {k: platt(logits[:, k].astype(np.float64), truth[:, k]) for k in enough}
    slope = max(0.1, float(np.median([one[0] for one in fitted.values()]))) if fitted else 1.0
    slopes, intercepts = np.full(truth.shape[1], slope), np.zeros(truth.shape[1])
    for k in range(truth.shape[1]):
        if k in fitted:
            slopes[k], intercepts[k] = fitted[k]
            slopes[k] = max(slopes[k], 1e-3)  # 0 would give all images one score
        else:
            share = (truth[:, k].sum() + 0.5) / (len(truth) + 1)
            intercepts[k] = _shift(slope * logits[:, k].astype(np.float64), share)
    return slopes, intercepts


def _shift(logits: NDArray[np.float64], share: float) -> float:
    """What is to be added to ``logits`` so that the mean probability is ``share``; bisection."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(logits + middle).mean() < share else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Lines:
    """The image's calibration and the operating points."""

    calibration: Calibration
    points: dict[str, OperatingPoint]


def draw(
    scores: NDArray[np.floating],
    truth: NDArray[np.bool_],
    names: tuple[str, ...],
    cases: tuple[Case, ...],
    clean_normals: float,
) -> Lines:
    """Lines through validation scores ``(N,C)`` in [0,1] of images with the classes ``truth (N,C)``.

    A class with fewer than ``LEAST`` images has no line: nothing but its score is said of it.
    """
    clean = np.array([case.clean for case in cases])
    abnormal = np.array([case.label == "abnormal" and case.expert for case in cases])
    if not clean.any() or not abnormal.any():
        raise NothingToFit("the validation split has no expert-read normal images, or no abnormal ones")
    raw = scores.max(axis=1)
    read = clean | abnormal
    slope, intercept = platt(logit(np.clip(raw[read], 1e-6, 1 - 1e-6)), abnormal[read])
    calibration = Calibration(temperature=1.0, slope=max(slope, 1e-3), intercept=intercept)
    image = np.array([image_probability(float(one), calibration) for one in raw])
    gates = {
        "second_reader": float(np.nextafter(np.quantile(image[clean], clean_normals, method="higher"), 1)),
        "triage": float(np.quantile(image[abnormal], 1 - SENSITIVITY, method="lower")),
    }
    points = {}
    for point, gate in gates.items():
        classes = {}
        for k, name in enumerate(names):
            there = truth[:, k]
            if min(there.sum(), (~there).sum()) < LEAST:
                continue
            if point == "triage":
                line = np.quantile(scores[there, k], 1 - SENSITIVITY, method="lower")
            else:
                line = np.nextafter(np.quantile(scores[~there, k], SPECIFICITY, method="higher"), 1)
            classes[name] = float(np.clip(line, 0, 1))
        points[point] = OperatingPoint(
            threshold=1.0,
            min_area=0,
            image_threshold=float(np.clip(gate, 0, 1)),
            sensitivity=float((image[abnormal] >= gate).mean()),
            clean_normals=float((image[clean] < gate).mean()),
            classes=classes,
        )
    return Lines(calibration, points)


def _card(manifest: Manifest, run: Run, lines: Lines, val: ClassReport, test: ClassReport, failures: str) -> str:
    """Markdown; ``{digest}`` in it is filled in when the bundle is written."""
    commands = "\n".join(f"    {line}" for line in run.commands)
    rows = [
        [name, f"{point.image_threshold:.3f}", f"{point.sensitivity:.2f}", f"{point.clean_normals:.2f}"]
        for name, point in lines.points.items()
    ]
    by_class = [
        [name, *(f"{p.classes[name]:.3f}" if name in p.classes else "-" for p in lines.points.values())]
        for name in manifest.classes
    ]
    return f"""\
# {manifest.name} {manifest.version}

**{manifest.intended_use}.** Digest (model.json and weights): `{{digest}}`.

It scores {len(manifest.classes)} findings by name on a frontal chest radiograph, and marks nothing: there is no map and
no outline. It has not been evaluated by any authority. A low score does not mean that a finding is not there.

Architecture `{run.architecture}` {json.dumps(run.parameters)}, input {run.size} x {run.size} px.
Trained with

{commands}

## Data

{manifest.training_data}

{manifest.licence}

## Operating points

Fitted on the validation split, whose figures are beside them. The image's score is the highest of its classes',
calibrated again; at `second_reader` a class is called present with a specificity of {SPECIFICITY:.0%}, at `triage` with
a sensitivity of {SENSITIVITY:.0%}. A class on fewer than {LEAST} validation images has no line: only its score is told.

{grid(["", "image threshold", "sensitivity", "clean normals"], rows)}

{grid(["class", *(f"{name}: from" for name in lines.points)], by_class)}

## Results on the test split

{test.markdown()}

## Results on the validation split, on which the above was fitted

{val.markdown()}

## Where it fails

{failures}
"""
