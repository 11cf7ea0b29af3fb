"""The metrics of one evaluation as Markdown, for a terminal, a report and a bundle's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chextrain.evaluate.chexnomaly_metrics import Confusion
from chextrain.evaluate.evaluation import Evaluation
from chextrain.evaluate.scored_split import Numbers

WHERE = {
    "pixel_ap": "pixel AP",
    "small_ap": "AP, small third",
    "pointing": "pointing game",
    "froc_1": "FROC at 1",
    "box_iou": "box IoU",
    "dice": "Dice",
}
WHETHER = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "sensitivity": "sensitivity",
    "clean_normals": "clean normals",
    "brier": "Brier",
    "ece": "ECE",
}
"""Key of a number -> head of its column."""


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(evaluation: Evaluation) -> str:
    """Everything: rows, FROC, breakdowns, shortcuts, and the paper's readings of the same masks."""
    parts = [rows(evaluation), froc(evaluation), breakdowns(evaluation), shortcuts(evaluation), readings(evaluation)]
    return "\n\n".join(part for part in parts if part)


def rows(evaluation: Evaluation) -> str:
    """The operating points and the baselines."""
    text = (
        f"{evaluation.boxed} images with boxes (where), {evaluation.abnormal} expert-read abnormal and "
        f"{evaluation.clean} expert-read normal images (whether), of {evaluation.patients} patients; false regions "
        f"count on {evaluation.counted} images. In brackets 95 % intervals, patients resampled."
    )
    first = next(iter(evaluation.rows))
    where = {**evaluation.rows, f"{first}, above the mean mask": evaluation.gain}
    return "\n\n".join([text, _grid("where", WHERE, where), _grid("whether", WHETHER, evaluation.rows)])


def froc(evaluation: Evaluation) -> str:
    """Sensitivity by false regions an image, and at one by kind of finding."""
    curve = {f"{at.rate:g}": str(value) for at, value in evaluation.froc.items() if not at.findings}
    some = [[at.findings, str(value)] for at, value in evaluation.froc.items() if at.findings]
    first = grid(["false regions an image", *curve], [["findings hit", *curve.values()]])
    return f"{first}\n\n" + grid(["findings hit at 1", ""], some)


def breakdowns(evaluation: Evaluation) -> str:
    """By finding, size, coverage and stratum, at the first operating point."""
    lines = []
    for one in evaluation.breakdowns:
        numbers = [one.numbers.get(key) for key in ("pixel_ap", "pointing", "box_iou", "image_auroc", "clean_normals")]
        shown = ["-" if number is None else str(number) for number in numbers]
        lines.append([f"{one.kind}: {one.group}", str(one.images), shown[0], str(one.mean_mask), *shown[1:]])
    head = ["", "boxed", "pixel AP", "of the mean mask", "pointing game", "box IoU", "image AUROC", "clean normals"]
    low, high = (100 * limit for limit in evaluation.size_limits)
    return (
        f"{grid(head, lines)}\n\nSmall images have less than {low:.1f} % of the frame boxed, large ones {high:.1f} %."
    )


def shortcuts(evaluation: Evaluation) -> str:
    """Image AUROC beside that of scores which see no finding; empty where they were not fitted."""
    found = evaluation.shortcuts
    if not found:
        return ""
    columns = list(dict.fromkeys(key for numbers in found.values() for key in numbers))
    lines = [[name, *(str(numbers.get(key, "-")) for key in columns)] for name, numbers in found.items()]
    return grid(["image AUROC", *columns], lines)


def readings(evaluation: Evaluation) -> str:
    """The paper's measures in all their readings."""
    names = ("MAE", "MAE of masks", "IoU (i)", "IoU (ii)", "IoU (iii)", "F1 (all)", "F1 (+)")
    keys = ("mae", "mae_masks", "iou_classmean", "iou_image_empty1", "iou_positive", "f1_all", "f1_pos")
    head = ["paper's measures", *names, "strict TN/FP/FN/TP", "lenient", "over 4 % wrong"]
    lines = [
        [
            name,
            *(f"{getattr(numbers, key):.4f}" for key in keys),
            _confusion(numbers.strict),
            _confusion(numbers.lenient),
            str(numbers.outliers),
        ]
        for name, numbers in evaluation.paper.items()
    ]
    return grid(head, lines)


def _grid(name: str, columns: Mapping[str, str], found: Mapping[str, Numbers]) -> str:
    lines = [[row, *(str(numbers[key]) for key in columns)] for row, numbers in found.items()]
    return grid([name, *columns.values()], lines)


def _confusion(counts: Confusion) -> str:
    return f"{counts.tn}/{counts.fp}/{counts.fn}/{counts.tp}"
