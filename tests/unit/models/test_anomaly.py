"""Anomaly heat: its calibration against normal images, a bundle of it, and what the node is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chexmodels import registry
from chexmodels.bundle import AnomalyCalibration, BundleError, Calibration, Manifest, OperatingPoint, write_bundle
from chexmodels.calibration import calibrated_heat, image_score, raw_score
from chexmodels.interpret import interpret
from chexmodels.model import RawItem
from chexmodels.nets.ddad import DDAD
from chexmodels.pixels import Geometry

CALIBRATION = AnomalyCalibration(heat=((0.0, 0.0), (1.0, 0.5), (3.0, 1.0)), normals=(0.1, 0.2, 0.3, 0.4))
POINT = OperatingPoint(threshold=0.9, min_area=2, image_threshold=0.5, sensitivity=0.5, clean_normals=0.5)


def manifest(**changes: object) -> Manifest:
    usual = {
        "format": 1,
        "name": "tiny",
        "version": "1",
        "architecture": "ddad",
        "parameters": {"backbone": "ae", "count": 2, "width": 8},
        "size": 64,
        "geometry": "letterbox",
        "heat_kind": "anomaly",
        "classes": (),
        "calibration": CALIBRATION,
        "operating_points": {"only": POINT},
        "weights_sha256": "0" * 64,
        "licence": "",
        "intended_use": "",
        "training_data": "",
    }
    return Manifest.model_validate({**usual, **changes})


def test_heat_is_the_share_of_normal_pixels_and_the_score_one_minus_the_p_value() -> None:
    heat = np.array([0.0, 0.5, 1.0, 2.0, 9.0], np.float32)
    assert calibrated_heat(heat, CALIBRATION).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert raw_score(heat, heat / 9, 64, CALIBRATION) == pytest.approx(2.5)
    # p = (1 + normal images that score at least as high) / (1 + 4)
    assert [image_score(raw, CALIBRATION) for raw in (0.0, 0.1, 0.25, 0.3, 7.0)] == [
        pytest.approx(1 - p / 5) for p in (5, 5, 3, 3, 1)
    ]


def test_a_bundle_of_anomaly_heat_loads_and_marks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DDAD("ae", count=2, width=8)
    card = write_bundle(tmp_path, manifest(), registry.serialise(network), "{digest}")
    model = registry.load(tmp_path)
    image = torch.rand(2, 1, 64, 64)
    assert torch.equal(model(image).heat, network.half().float().eval()(image))  # type: ignore[arg-type]
    heat = np.full((64, 64), 0.2, np.float32)
    heat[10:20, 30:40] = 3
    heat[:16] = 50  # above the letterboxed image: not seen
    geometry = Geometry(32, 64, 64)
    heat[20:30, 30:40] = 3
    found = interpret(RawItem(heat), card, "only", geometry)
    seen = heat[16:48]
    assert found.score == image_score(float(seen.mean(dtype=np.float64)), CALIBRATION)
    assert found.abnormal
    assert found.heat is not None
    assert found.heat.max() <= 1
    (region,) = found.regions
    assert (region.box.x0, region.box.y0, region.box.x1, region.box.y1) == (30, 0, 40, 14)
    assert region.peak == 1.0
    quiet = interpret(RawItem(np.full((64, 64), 0.05, np.float32)), card, "only", geometry)
    assert (quiet.abnormal, quiet.score, quiet.regions) == (False, 0.0, ())


def test_calibration_and_heat_are_of_one_kind() -> None:
    platt = Calibration(temperature=1.0, slope=1.0, intercept=0.0)
    for changes in ({"calibration": platt}, {"heat_kind": "probability"}):
        with pytest.raises(ValueError, match="not one of"):
            manifest(**changes)
    with pytest.raises(ValueError, match="ascend"):
        AnomalyCalibration(heat=((1.0, 0.0), (0.0, 1.0)), normals=(1.0,))


def test_a_committee_of_ddad_is_refused(tmp_path: Path) -> None:
    parameters = {"member": "ddad", "count": 2, "mirror": False, "backbone": "ae"}
    platt = Calibration(temperature=1.0, slope=1.0, intercept=0.0)
    odd = manifest(architecture="committee", parameters=parameters, heat_kind="probability", calibration=platt)
    write_bundle(tmp_path, odd, registry.serialise(DDAD("ae", count=2, width=8)), "")
    with pytest.raises(BundleError, match="committee"):
        registry.load(tmp_path)
