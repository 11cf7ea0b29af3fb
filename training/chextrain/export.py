"""From a finished run to a bundle: round to fp16, calibrate and draw the lines on validation, write the card."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chexmodels.bundle import RESEARCH_USE_ONLY, Manifest, ModelCard, write_bundle
from chexmodels.calibration import pixel_probability
from chexmodels.registry import serialise
from chextrain.calibrate import fit_calibration, fit_operating_points, image_scores
from chextrain.card import card_text
from chextrain.data.arrays import Arrays
from chextrain.data.cases import Collection
from chextrain.evaluate import evaluate, mean_mask
from chextrain.predict import logits
from chextrain.runs import Run, load_network


def export(
    run_folder: Path,
    out: Path,
    name: str,
    version: str,
    failures: str,
    collection: Collection,
    val: Arrays,
    test: Arrays,
) -> ModelCard:
    """Write the bundle of ``run_folder`` to ``out``; ``val`` and ``test`` are at the run's size.

    Everything is fitted on ``val``; ``test`` is scored once, for the card. ``failures`` is the card's prose on where
    the model fails, which no program knows.
    """
    run = Run.read(run_folder)
    network = load_network(run_folder).half().float()  # what the bundle will hold
    heat = logits(network, val)
    boxed = np.array([bool(case.boxes) and case.label == "abnormal" for case in val.cases])
    clean = np.array([case.clean for case in val.cases])
    abnormal = np.array([case.label == "abnormal" and case.expert for case in val.cases])
    read = abnormal | clean
    calibration = fit_calibration(heat[read], val.targets[read], (boxed | clean)[read], abnormal[read])
    prob = pixel_probability(heat, calibration.temperature)
    truth = val.targets & boxed[:, None, None]
    points = fit_operating_points(prob, image_scores(prob, calibration), truth, abnormal, clean)
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
        calibration=calibration,
        operating_points=points,
        weights_sha256="0" * 64,
        licence=collection.licence,
        intended_use=RESEARCH_USE_ONLY,
        training_data=collection.description,
    )
    mean = mean_mask(collection, run.size)
    test_prob = pixel_probability(logits(network, test), calibration.temperature)
    results = (
        evaluate("val", val, prob, calibration, points, mean),
        evaluate("test", test, test_prob, calibration, points, mean),
    )
    return write_bundle(out, manifest, serialise(network), card_text(manifest, run, results, failures))
