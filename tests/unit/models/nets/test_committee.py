"""A committee says the mean of what its members say, mirrored or not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from chexmodels.nets.committee import Panel
from chexmodels.nets.unet import UNet
from chexmodels.registry import BUILDERS, PANEL


def test_the_mean_of_its_members() -> None:
    image = torch.rand(2, 1, 64, 64)
    built = BUILDERS["committee"](member="unet", count=3, mirror=False, preset="nano").eval()
    members = [UNet("nano").eval() for _ in range(3)]
    built.load_state_dict(
        {
            f"members.{i}.{name}": value
            for i, member in enumerate(members)
            for name, value in member.state_dict().items()
        }
    )
    with torch.inference_mode():
        expected = sum(member(image) for member in members) / 3
        assert torch.allclose(built(image), expected, atol=1e-6)


def test_mirrored_it_does_not_know_left_from_right() -> None:
    image = torch.rand(2, 1, 64, 64)
    built = BUILDERS["committee"](member="unet", count=2, mirror=True, preset="nano").eval()
    with torch.inference_mode():
        answer = built(image)
        assert torch.allclose(built(image.flip(3)), answer.flip(3), atol=1e-6)
        assert not torch.allclose(built.members[0](image.flip(3)), built.members[0](image).flip(3), atol=1e-3)


def test_no_committee_of_committees() -> None:
    with pytest.raises(ValueError, match="committee"):
        BUILDERS["committee"](member="committee", count=2, mirror=False, preset="nano")


def test_a_panel_sees_the_image_at_each_ones_size_and_weighs_by_temperature() -> None:
    image = torch.rand(2, 1, 64, 64)
    large, small = UNet("nano").eval(), UNet("nano").eval()
    panel = Panel([large, small], (64, 32), (1.0, 2.0)).eval()
    reduced = F.interpolate(image, size=(32, 32), mode="bilinear", align_corners=False, antialias=True)
    with torch.inference_mode():
        enlarged = F.interpolate(small(reduced), size=(64, 64), mode="bilinear", align_corners=False)
        assert torch.allclose(panel(image), (large(image) + enlarged / 2) / 2, atol=1e-5)
    assert not [name for name in panel.state_dict() if "rows" in name]  # they follow from the sizes


@pytest.mark.parametrize("architecture", [PANEL, "ddad", "cml"])
def test_a_panel_has_members_with_maps_of_probabilities_alone(architecture: str) -> None:
    member = {"title": "x 1", "architecture": architecture, "parameters": {}, "size": 64, "temperature": 1.0}
    with pytest.raises(ValueError, match=f"no {architecture} for a member"):
        BUILDERS[PANEL](members=[member])
