"""Table 1 of DDAD in its layout: image AUROC of each backbone by four anomaly scores, the printed ones in brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from chexmodels.nets.ddad import DDAD, Maps, discrepancies, reconstruction_error
from chextrain.evaluate.baselines import shortcut_numbers
from chextrain.evaluate.bootstrap import Estimate
from chextrain.evaluate.markdown import grid
from chextrain.evaluate.models import ScoredModel
from chextrain.evaluate.predict import batches, content_means
from chextrain.evaluate.scored_split import Numbers, ScoredSplit

SCORES = {"single": "Rec, one network", "rec": "Rec, ensemble", "intra": "Intra", "inter": "Inter"}
"""Key -> head of its column."""
BACKBONES = {"ae": "AE", "memae": "MemAE", "aeu": "AE-U"}
PRINTED = {
    "ae": ("0.669, 0.559", "0.669, 0.555", "0.694, 0.601", "0.815, 0.71"),
    "memae": ("0.68, 0.558", "0.67, 0.553", "0.729, 0.595", "0.788, 0.69"),
    "aeu": ("0.867, 0.738", "0.866, 0.731", "0.873, 0.743", "0.91, 0.859"),
}
"""RSNA, VinBigData."""
CAPTION = """\
Image AUROC of expert-read abnormal against expert-read normal images. Of one run: 95 % intervals, patients resampled;
of one network the mean of module B's networks and their range. Of several runs of a backbone: mean and range of the
runs. In brackets what the report prints for RSNA and VinBigData, which these images are not."""


@dataclass(frozen=True)
class DdadNumbers:
    """One run of DDAD on one split."""

    title: str
    backbone: str
    scores: Mapping[str, Numbers]
    """By :data:`SCORES`, then by which images: all, PA only, matched pairs."""


def score_ddad(model: ScoredModel, split: ScoredSplit, matched: Sequence[tuple[str, str]]) -> DdadNumbers:
    """Every anomaly score of a run or bundle of DDAD, averaged over the pixels inside the letterbox."""
    network = cast(DDAD, model.network).eval()
    found: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for batch in batches(network, split.arrays, 16):
            image = 2 * batch - 1
            a, b = network.reconstructions(image)
            maps = discrepancies(a, b, image)._asdict()
            singles = {f"single {k}": reconstruction_error(answer, image) for k, answer in enumerate(b)}
            for name, heat in (maps | singles).items():
                found.setdefault(name, []).append(heat[:, 0].float().cpu().numpy())
    scores = {name: content_means(np.concatenate(parts), split.arrays) for name, parts in found.items()}
    numbers = shortcut_numbers(split, scores, matched)
    single = [numbers[name] for name in numbers if name not in Maps._fields]
    joined = {"single": {key: spread([one[key] for one in single]) for key in single[0]}}
    return DdadNumbers(model.title, str(model.backbone), {**joined, **{name: numbers[name] for name in Maps._fields}})


def spread(estimates: Sequence[Estimate]) -> Estimate:
    """Mean and range of the values."""
    values = [estimate.value for estimate in estimates]
    return Estimate(float(np.mean(values)), min(values), max(values))


def ddad_table(runs: Sequence[DdadNumbers]) -> str:
    """Markdown: the table of the report, then every score on the other images."""
    rows = []
    for backbone, name in BACKBONES.items():
        own = [run for run in runs if run.backbone == backbone]
        cells = []
        for score, printed in zip(SCORES, PRINTED[backbone], strict=True):
            estimates = [run.scores[score]["all"] for run in own]
            ours = spread(estimates) if len(estimates) > 1 else estimates[0] if estimates else "-"
            cells.append(f"{ours} [{printed}]")
        rows.append([name, *cells])
    columns = list(dict.fromkeys(key for run in runs for numbers in run.scores.values() for key in numbers))
    each = [
        [f"{run.title}: {SCORES[score]}", *(str(numbers.get(key, "-")) for key in columns)]
        for run in runs
        for score, numbers in run.scores.items()
    ]
    return "\n\n".join([CAPTION, grid(["", *SCORES.values()], rows), grid(["image AUROC", *columns], each)])
