"""The paper's own numbers (CheX-Nomaly, arXiv 2311.01777), each with what its text leaves open.

They are here to reproduce its tables, not to judge a model by: most can be raised by marking less. ``prob`` and
``mask`` are what a model says, ``truth`` the filled boxes, all ``(N,S,S)``. Masks come from an operating point; the
paper cuts at 0.5, which means nothing for probabilities that another loss or a calibration has moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexmodels.postprocess import label
from chextrain.metrics import Maps, Masks, any_pixel, mask_iou

TOLERANCE = 100
"""Pixels of 512 x 512 (appendix B): a difference that no reader would mind."""
BIN, OUTLIER = 0.25, 4.0
"""Per cent of wrong pixels: width of a bin of figure 13, and from where on an image is an outlier."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images by what is there and what was said (figure 12)."""

    tn: int
    fp: int
    fn: int
    tp: int

    @property
    def f1(self) -> float:
        """``2 TP / (2 TP + FP + FN)``; 0 where nothing is there and nothing was said."""
        wrong = self.fp + self.fn
        return 2 * self.tp / (2 * self.tp + wrong) if self.tp or wrong else 0.0


def paper_mae(prob: Maps, truth: Masks) -> float:
    """Mean ``|p - y|`` over all pixels, on probabilities, as Keras computes it.

    Open: the paper never says whether on probabilities or on masks; :func:`paper_mae_masks` is the other reading.
    A model that says nothing scores the mean share of boxes, about 0.03 on VinDr-CXR.
    """
    return float(np.mean([np.abs(p - y).mean(dtype=np.float64) for p, y in zip(prob, truth, strict=True)]))


def paper_mae_masks(mask: Masks, truth: Masks) -> float:
    """Share of the pixels that the mask gets wrong: "pixels inaccurately classified" (figure 13)."""
    return float(np.mean(mask != truth))


def iou_classmean(mask: Masks, truth: Masks) -> float:
    """Mean IoU, reading (i): ``(IoU of background + IoU of findings) / 2`` on the confusion matrix of all pixels.

    What the author's code calls, ``tf.keras.metrics.MeanIoU(num_classes=2)``, computes this; fed probabilities, it
    casts them to integers, so that only p = 1 counts as a finding. Here it is given masks. The likeliest reading of
    table I: as ``IoU_bg`` is about ``1 - MAE``, 0.7487 means an IoU of findings of 0.51, and 0.6118 one of 0.23.
    """
    both, either = np.count_nonzero(mask & truth), np.count_nonzero(mask | truth)
    background = mask.size - either
    return float(background / (mask.size - both) + (both / either if either else 1.0)) / 2


def iou_image_empty1(mask: Masks, truth: Masks) -> float:
    """Mean IoU, reading (ii): per image, then averaged; 1 where nothing is there and nothing was marked.

    A model that never marks anything scores the share of normal images: 0.707 on VinDr-CXR's 15,000, above the printed
    0.6118 of the supermodel.
    """
    return float(mask_iou(mask, truth).mean())


def iou_positive(mask: Masks, truth: Masks) -> float:
    """Mean IoU, reading (iii): per image, averaged over the images that have a finding; NaN without any."""
    positive = any_pixel(truth)
    return float(mask_iou(mask[positive], truth[positive]).mean()) if positive.any() else float("nan")


def strict_confusion(mask: Masks, truth: Masks) -> Confusion:
    """Appendix B to the letter.

    Truth and mask empty: TN. Only the truth empty: FP. A finding, and fewer than 100 of 512 x 512 pixels differ: TP.
    A finding, and an empty mask: FN. Open: a finding with a mask that differs by more; the paper has no name for most
    of its own images. Here it is FN.
    """
    tolerance = TOLERANCE * (truth.shape[1] / 512) ** 2
    there, said = any_pixel(truth), any_pixel(mask)
    right = there & said & (np.count_nonzero(mask != truth, axis=(1, 2)) < tolerance)
    return _confusion(there, said & ~there | right)


def lenient_confusion(mask: Masks, truth: Masks) -> Confusion:
    """The "more visually intuitive" categories of figure 12, which the paper shows and does not define.

    Here: an image without a finding is TN if fewer than 100 of 512 x 512 pixels are marked, else FP. One with a finding
    is TP if the IoU is at least 0.4 or at least half of its boxes are touched by the mask, else FN.
    """
    tolerance = TOLERANCE * (truth.shape[1] / 512) ** 2
    there = any_pixel(truth)
    loud = np.count_nonzero(mask, axis=(1, 2)) >= tolerance
    good = mask_iou(mask, truth) >= 0.4
    touched = np.array([_touched(m, t) >= 0.5 for m, t in zip(mask, truth, strict=True)])
    return _confusion(there, np.where(there, good | touched, loud))


def paper_f1_all(mask: Masks, truth: Masks) -> float:
    """The "F1 score (all)" of table I, from the strict confusion matrix. Open: the paper does not say from which."""
    return strict_confusion(mask, truth).f1


def paper_f1_pos(mask: Masks, truth: Masks) -> float:
    """The "F1 score (+)" of table I: any pixel marked against any pixel there, on images with a finding only.

    Without negatives there are no false positives, so this is ``2 r / (1 + r)`` of the recall ``r``: a model that marks
    one pixel on every image scores 1. It explains 0.96 to 1.00 beside a mean IoU of 0.01. NaN without an image.
    """
    said = any_pixel(mask[any_pixel(truth)])
    recall = float(said.mean()) if len(said) else float("nan")
    return 2 * recall / (1 + recall)


def error_histogram(mask: Masks, truth: Masks) -> tuple[NDArray[np.int64], int]:
    """Images by their per cent of wrong pixels: counts in bins of 0.25 up to 4 ``(16,)``, and the outliers above."""
    wrong = 100 * np.mean(mask != truth, axis=(1, 2))
    counts, _ = np.histogram(wrong[wrong <= OUTLIER], np.arange(0, OUTLIER + BIN / 2, BIN))
    return np.asarray(counts, dtype=np.int64), int(np.count_nonzero(wrong > OUTLIER))


def _confusion(there: NDArray[np.bool_], said: NDArray[np.bool_]) -> Confusion:
    def count(selected: NDArray[np.bool_]) -> int:
        return int(np.count_nonzero(selected))

    return Confusion(count(~there & ~said), count(~there & said), count(there & ~said), count(there & said))


def _touched(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Share of the components of ``truth`` in which something is marked; 0 without any."""
    labels, count = label(truth)
    return len(np.unique(labels[mask & truth])) / count if count else 0.0


@dataclass(frozen=True, slots=True)
class PaperNumbers:
    """All of the above for one model on one set of images."""

    mae: float
    mae_masks: float
    iou_classmean: float
    iou_image_empty1: float
    iou_positive: float
    f1_all: float
    f1_pos: float
    strict: Confusion
    lenient: Confusion
    histogram: tuple[int, ...]
    """Images in each bin of 0.25 % of wrong pixels."""
    outliers: int
    """Images with more than 4 % of wrong pixels."""


def paper_numbers(prob: Maps, mask: Masks, truth: Masks) -> PaperNumbers:
    """Every number of the paper at once."""
    counts, outliers = error_histogram(mask, truth)
    return PaperNumbers(
        mae=paper_mae(prob, truth),
        mae_masks=paper_mae_masks(mask, truth),
        iou_classmean=iou_classmean(mask, truth),
        iou_image_empty1=iou_image_empty1(mask, truth),
        iou_positive=iou_positive(mask, truth),
        f1_all=paper_f1_all(mask, truth),
        f1_pos=paper_f1_pos(mask, truth),
        strict=strict_confusion(mask, truth),
        lenient=lenient_confusion(mask, truth),
        histogram=tuple(int(count) for count in counts),
        outliers=outliers,
    )
