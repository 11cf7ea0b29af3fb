"""Tables I to VI of the paper in its layout, our numbers first and the printed ones in brackets.

The printed numbers are of VinDr-CXR and its author's "other" set; beside numbers of other images they are a reference
for the layout, not for the reader. Table VI compares IoU with the mAP of other groups, which is no comparison: only our
numbers are printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chextrain.data.findings import VINDR
from chextrain.evaluate.chexnomaly_metrics import PaperNumbers
from chextrain.evaluate.evaluation import Evaluation
from chextrain.evaluate.markdown import grid

COLUMNS = {
    "max_ensemble": "Max Ensemble",
    "model_ensemble": "Model Ensemble",
    "unet": "U-Net",
    "attention": "Attention",
    "chexnomaly": "CheX-Nomaly",
}
"""Architecture -> column of table I."""
VARIANTS = {"cnn": "CNN Siamese", "map": "U-Net Siamese", "pooled": "pooled (ours)"}
NONE = "no model given"
PRINTED_I = {
    "MAE": ("0.21", "0.09", "0.009", "0.008", "0.0109"),
    "F1 score (all)": ("0", "0.11", "0.23", "0.23", "0.58"),
    "Mean IoU": ("0.0102", "0.0122", "0.6118", "0.6504", "0.7487"),
    "MAE, other": ("0.408", "0.37", "0.204", "0.272", "0.131"),
    "F1 score (+), other": ("1", "0.96", "0.96", "0.96", "0.98"),
    "Mean IoU, other": ("0.0091", "0.0101", "0.2119", "0.1999", "0.2801"),
}
PRINTED_II = {
    "Aortic enlargement": ("0.0067", "0.83"),
    "Atelectasis": ("0.058", "0.83"),
    "Calcification": ("0.053", "0.72"),
    "Cardiomegaly": ("0.0284", "0.7"),
    "Consolidation": ("0.0554", "0.78"),
    "ILD": ("0.0243", "0.63"),
    "Infiltration": ("0.0341", "0.72"),
    "Lung Opacity": ("0.0366", "0.75"),
    "Nodule/Mass": ("0.0134", "0"),
    "Other lesion": ("0.0469", "0.64"),
    "Pleural effusion": ("0.0149", "0.81"),
    "Pleural thickening": ("0.0099", "0.71"),
    "Pneumothorax": ("0.0522", "0.53"),
    "Pulmonary fibrosis": ("0.0225", "0.76"),
}
PRINTED_III = {"chexnomaly": "0.2801", "unet": "0.2119"}
PRINTED_IV = {"cnn": ("0.1381", "0.908"), "map": ("0.1334", "0.905")}
PRINTED_V = {"cnn": ("0.0739", "0.0039"), "map": ("0.0109", "0.7487")}


@dataclass(frozen=True)
class LocaliserNumbers:
    """A localiser and its numbers on the split and, where there is one, on the external set."""

    architecture: str
    variant: str
    evaluation: Evaluation
    external: Evaluation | None = None


@dataclass(frozen=True, slots=True)
class SpecialistNumbers:
    """A row of table II."""

    finding: str
    positives: int
    """Images with the finding; as many without it are scored beside them."""
    mae: float
    f1: float


@dataclass(frozen=True, slots=True)
class SiameseNumbers:
    """A column of table IV."""

    title: str
    variant: str
    mae: float
    accuracy: float


def paper_tables(
    models: Sequence[LocaliserNumbers], specialists: Sequence[SpecialistNumbers], siamese: Sequence[SiameseNumbers]
) -> dict[str, str]:
    """Title -> Markdown of the six tables; what no model was given for says so."""
    return {
        "Table I: all models": _table_1(models),
        "Table II: specialised models on their own finding": _table_2(specialists),
        "Table III: mean IoU on the external set": _table_3(models),
        "Table IV: Siamese networks": _table_4(siamese),
        "Table V: Siamese networks transferred to CheX-Nomaly": _table_5(models),
        "Table VI: mean IoU of CheX-Nomaly": _table_6(models),
    }


def numbers(evaluation: Evaluation) -> PaperNumbers:
    """Of the first operating point."""
    return next(iter(evaluation.paper.values()))


def _table_1(models: Sequence[LocaliserNumbers]) -> str:
    known: dict[str, PaperNumbers] = {}
    other: dict[str, PaperNumbers] = {}
    for model in models:
        known.setdefault(model.architecture, numbers(model.evaluation))
        if model.external is not None:
            other.setdefault(model.architecture, numbers(model.external))
    wanted = (
        ("MAE", known, "mae"),
        ("F1 score (all)", known, "f1_all"),
        ("Mean IoU", known, "iou_classmean"),
        ("MAE, other", other, "mae"),
        ("F1 score (+), other", other, "f1_pos"),
        ("Mean IoU, other", other, "iou_classmean"),
    )
    rows = []
    for name, source, key in wanted:
        values = {architecture: getattr(found, key) for architecture, found in source.items()}
        cells = [_cell(values.get(a), printed) for a, printed in zip(COLUMNS, PRINTED_I[name], strict=True)]
        attention = values["unet"] - values["attention"] if {"unet", "attention"} <= values.keys() else None
        printed = float(PRINTED_I[name][2]) - float(PRINTED_I[name][3])
        rows.append([name, *cells[:4], _cell(attention, f"{printed:.4g}"), cells[4]])
    head = ["", *list(COLUMNS.values())[:4], "Difference", COLUMNS["chexnomaly"]]
    first = {m.architecture: m.evaluation.title for m in reversed(models)}
    named = "; ".join(f"{COLUMNS[a]}: {title}" for a, title in first.items() if a in COLUMNS)
    return f"{grid(head, rows)}\n\n{named or 'No localiser was given.'}"


def _table_2(specialists: Sequence[SpecialistNumbers]) -> str:
    found = {one.finding: one for one in specialists}
    names = [*VINDR, *(name for name in found if name not in VINDR)]
    rows = []
    for name in names:
        mae, f1 = PRINTED_II.get(name, ("", ""))
        one = found.get(name)
        rows.append(
            [
                name,
                str(one.positives) if one else "-",
                _cell(one.mae if one else None, mae),
                _cell(one.f1 if one else None, f1),
            ]
        )
    return grid(["Category", "images with it", "MAE", "F1 score"], rows)


def _table_3(models: Sequence[LocaliserNumbers]) -> str:
    rows = [
        [
            m.evaluation.title,
            _cell(numbers(m.external).iou_classmean, PRINTED_III.get(m.architecture, "")),
            f"{numbers(m.external).iou_positive:.4f}",
        ]
        for m in models
        if m.external is not None
    ]
    if not rows:
        return "No external set was given (`--external`, `--external-format`)."
    return grid(["Model", "Mean IoU (i)", "on positives (iii)"], rows)


def _table_4(siamese: Sequence[SiameseNumbers]) -> str:
    found = {one.variant: one for one in reversed(siamese)}
    mae, accuracy = ["MAE"], ["Accuracy"]
    for variant in VARIANTS:
        printed = PRINTED_IV.get(variant, ("", ""))
        one = found.get(variant)
        mae.append(_cell(one.mae if one else None, printed[0]))
        accuracy.append(_cell(one.accuracy if one else None, printed[1]))
    return grid(["", *VARIANTS.values()], [mae, accuracy])


def _table_5(models: Sequence[LocaliserNumbers]) -> str:
    found = {m.variant: numbers(m.evaluation) for m in reversed(models) if m.architecture == "chexnomaly"}
    mae, overlap = ["MAE"], ["Mean IoU"]
    for variant in VARIANTS:
        printed = PRINTED_V.get(variant, ("", ""))
        one = found.get(variant)
        mae.append(_cell(one.mae if one else None, printed[0]))
        overlap.append(_cell(one.iou_classmean if one else None, printed[1]))
    return grid(["", *VARIANTS.values()], [mae, overlap])


def _table_6(models: Sequence[LocaliserNumbers]) -> str:
    rows = []
    for model in models:
        if model.architecture == "chexnomaly":
            said = numbers(model.evaluation)
            overlaps = (said.iou_classmean, said.iou_image_empty1, said.iou_positive)
            rows.append([model.evaluation.title, *(f"{value:.4f}" for value in overlaps)])
    if not rows:
        return f"CheX-Nomaly: {NONE}."
    table = grid(["Model", "Mean IoU (i)", "(ii)", "(iii)"], rows)
    return f"{table}\n\nThe paper sets these beside the mAP at IoU 0.4 of other groups, which is another quantity."


def _cell(value: float | None, printed: str) -> str:
    ours = "-" if value is None else f"{value:.4f}"
    return f"{ours} [{printed}]" if printed else ours
