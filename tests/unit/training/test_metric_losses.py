"""Triplets, InfoNCE and the asymmetric loss, each against a case by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chextrain.fit.metric_losses import asymmetric_loss, info_nce, triplet_loss


def at(*degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def apart(degrees: float) -> float:
    return 1 - math.cos(math.radians(degrees))


class TestTriplets:
    def test_the_nearest_negative_beyond_the_positive(self) -> None:
        """Anchor 0 and positive 40 degrees; negatives at -20 (nearer), -60 and -90: -60 counts, for 40 it is -20."""
        loss = triplet_loss(at(0, 40, -20, -60, -90), torch.tensor([0, 0, 1, 2, 3]), margin=0.3)
        first, second = apart(40) - apart(60) + 0.3, apart(40) - apart(60) + 0.3  # 40 and -20 are 60 apart
        assert float(loss) == pytest.approx((max(0, first) + max(0, second)) / 2, abs=1e-6)

    def test_where_all_negatives_are_nearer_the_farthest(self) -> None:
        loss = triplet_loss(at(0, 90, 20, 10), torch.tensor([0, 0, 1, 2]), margin=0.1)
        of_0 = apart(90) - apart(20) + 0.1
        of_90 = apart(90) - apart(80) + 0.1  # from 90: 20 is 70 away, 10 is 80
        assert float(loss) == pytest.approx((of_0 + of_90) / 2, abs=1e-6)

    def test_weights_count_by_the_pairs_label(self) -> None:
        points, labels = at(0, 50, 100, 110), torch.tensor([0, 0, 1, 1])
        each = [float(triplet_loss(points, labels, 1.0, w)) for w in (torch.tensor([1.0, 0]), torch.tensor([0, 1.0]))]
        both = float(triplet_loss(points, labels, 1.0, torch.tensor([3.0, 1.0])))
        assert both == pytest.approx((3 * each[0] + each[1]) / 4, abs=1e-6)
        assert each[0] != pytest.approx(each[1])

    def test_dropped_rows_take_no_part(self) -> None:
        kept = triplet_loss(at(0, 40, 80), torch.tensor([0, 0, 1]), 0.3)
        more = triplet_loss(at(0, 5, 40, 80), torch.tensor([0, -1, 0, 1]), 0.3)
        assert float(more) == pytest.approx(float(kept))

    @pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [-1, -1, -1]])
    def test_without_a_pair_or_a_negative_there_is_nothing_to_learn(self, labels: list[int]) -> None:
        points = at(0, 40, 80).requires_grad_()
        loss = triplet_loss(points, torch.tensor(labels), 0.3)
        loss.backward()
        assert float(loss.detach()) == 0
        assert float(points.grad.abs().sum()) == 0  # type: ignore[union-attr]


class TestInfoNce:
    def test_by_hand(self) -> None:
        image, text = at(0, 90), at(0, 60)
        logits = [[1.0, 0.5], [0.0, math.sqrt(0.75)]]  # cosines; temperature 1
        rows = [-math.log(math.exp(r[i]) / (math.exp(r[0]) + math.exp(r[1]))) for i, r in enumerate(logits)]
        columns = [-math.log(math.exp(logits[i][i]) / sum(math.exp(r[i]) for r in logits)) for i in range(2)]
        expected = (sum(rows) / 2 + sum(columns) / 2) / 2
        assert float(info_nce(image, text, 1.0)) == pytest.approx(expected, abs=1e-6)
        assert float(info_nce(image, text, 0.1)) < float(info_nce(image, text.flip(0), 0.1))

    def test_like_texts_are_no_negatives(self) -> None:
        image, text = at(10, 10, 90), at(10, 10, 90)
        same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
        assert float(info_nce(image, text, 0.01, same)) == pytest.approx(2 / 3 * math.log(2), abs=1e-4)
        best = image.clone().requires_grad_()
        info_nce(best, text, 0.01, same).backward()
        assert float(best.grad.abs().max()) < 1e-4  # type: ignore[union-attr]


class TestAsymmetric:
    def test_by_hand(self) -> None:
        logits = torch.tensor([[0.0, math.log(3.0), math.log(0.02 / 0.98)]])  # probabilities 1/2, 3/4 and 0.02
        target = torch.tensor([[1.0, 0.0, 0.0]])
        positive = -(0.5**1) * math.log(0.5)
        negative = -(0.7**4) * math.log(1 - 0.7)
        expected = (positive + negative + 0) / 3  # below the clip a negative costs nothing
        assert float(asymmetric_loss(logits, target, positive=1, negative=4, clip=0.05)) == pytest.approx(expected)

    def test_with_nothing_asymmetric_it_is_the_cross_entropy(self) -> None:
        torch.manual_seed(0)
        logits, target = torch.randn(6, 4), (torch.rand(6, 4) > 0.7).float()
        ours = asymmetric_loss(logits, target, positive=0, negative=0, clip=0)
        assert float(ours) == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, target)), abs=1e-6)

    def test_it_stays_finite_and_goes_on_teaching(self) -> None:
        logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
        loss = asymmetric_loss(logits, torch.tensor([[0.0, 1.0]]))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]
