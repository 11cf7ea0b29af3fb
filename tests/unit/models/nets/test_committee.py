"""A committee says the mean of what its members say, mirrored or not."""

from __future__ import annotations

import pytest
import torch

from chexmodels.nets.unet import UNet
from chexmodels.registry import BUILDERS


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
