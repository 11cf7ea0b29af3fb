"""Losses against published values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.losses import FocalLoss

from chextrain.fit.losses import contrastive, focal, pixel_loss, printed_focal, soft_dice


def test_focal_gives_the_docstring_values_of_tensorflow_addons() -> None:
    target = torch.tensor([1.0, 1.0, 0.0])
    prob = torch.tensor([0.97, 0.91, 0.03])
    values = focal(torch.logit(prob), target)
    assert values.tolist() == pytest.approx([6.8532745e-06, 1.9097870e-04, 2.0559824e-05], rel=1e-4)


def test_focal_equals_monais() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 16, 16) * 3, (torch.rand(2, 1, 16, 16) > 0.7).float()
    monai = FocalLoss(alpha=0.25, gamma=2.0)(logits, target)
    assert focal(logits, target).mean().item() == pytest.approx(monai.item(), rel=1e-5)


def test_focal_is_finite_far_out() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    focal(logits, torch.tensor([1.0, 0.0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


def gradient_in_p(loss: Callable[..., torch.Tensor], p: float) -> float:
    """Of one negative pixel."""
    logit = torch.logit(torch.tensor([p], dtype=torch.float32)).requires_grad_()
    loss(logit, torch.zeros(1)).sum().backward()
    return logit.grad.item() / (p * (1 - p))


@pytest.mark.parametrize(("p", "printed", "right"), [(0.9, 0.024, 9.18), (0.5, 0.895, 0.895), (0.1, 9.18, 0.024)])
def test_the_printed_loss_focuses_on_the_wrong_pixels(p: float, printed: float, right: float) -> None:
    assert gradient_in_p(printed_focal, p) == pytest.approx(printed, rel=0.01)
    assert gradient_in_p(focal, p) == pytest.approx(right, rel=0.01)


def test_the_printed_loss_pushes_hardest_where_nothing_is_wrong() -> None:
    assert gradient_in_p(printed_focal, 0.01) == pytest.approx(80, rel=0.01)
    assert gradient_in_p(focal, 0.01) == pytest.approx(0.0002, abs=0.00005)


def test_the_printed_loss_is_bounded_by_its_clamp_alone() -> None:
    silent = torch.full((1,), -50.0)
    assert printed_focal(silent, torch.zeros(1)).item() == pytest.approx(-12.09, abs=0.005)
    assert printed_focal(silent, torch.zeros(1), eps=1e-12).item() < -20
    assert focal(silent, torch.zeros(1)).item() == pytest.approx(0, abs=1e-12)


def test_the_printed_loss_is_right_on_positive_pixels() -> None:
    logits = torch.linspace(-5, 5, 11)
    assert torch.allclose(printed_focal(logits, torch.ones(11)), focal(logits, torch.ones(11)), atol=1e-6)


def test_who_asks_for_the_printed_loss_is_warned() -> None:
    assert pixel_loss("focal") is focal
    with pytest.warns(UserWarning, match="no loss to train"):
        assert pixel_loss("printed") is printed_focal


def test_similar_pairs_are_pulled_and_others_pushed_up_to_the_margin() -> None:
    distance = torch.tensor([0.0, 0.5, 2.0])
    assert contrastive(distance, torch.ones(3)).tolist() == pytest.approx([0.0, 0.125, 2.0])
    assert contrastive(distance, torch.zeros(3)).tolist() == pytest.approx([0.5, 0.125, 0.0])


def test_the_contrastive_gradient_has_the_papers_sign() -> None:
    distance = torch.tensor([0.5, 0.5, 1.5], requires_grad=True)
    contrastive(distance, torch.tensor([1.0, 0.0, 0.0])).sum().backward()
    assert distance.grad.tolist() == pytest.approx([0.5, -0.5, 0.0])


def test_dice_is_zero_for_the_truth_and_ignores_what_has_no_weight() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    weight = torch.ones_like(target)
    assert soft_dice(target, target, weight) == 0
    assert soft_dice(1 - target, target, weight) > 0.9
    weight[..., 4:] = 0
    assert soft_dice(torch.ones_like(target), target, weight) == 0
