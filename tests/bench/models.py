"""A step of the mixture's EM beside scikit-learn's, and the six networks of DDAD for one image.

    python tests/bench/models.py [--rows 100000] [--dimensions 64] [--components 40]

Both fit the same rows from the same means, on one thread, in turns; medians of the rounds and their ratio. The clock is
this process's own: other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from chexmodels.bundle import find
from chexmodels.registry import Loaded, load
from chextrain.fit.mixture import Mixture, step

STEPS = 4
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of ``work``."""
    start = time.process_time()
    work()
    return time.process_time() - start


def mixtures(rows: np.ndarray, components: int) -> Mapping[str, Callable[[], object]]:
    """What is compared: ``STEPS`` iterations each."""
    rng = np.random.default_rng(1)
    means = rows[rng.choice(len(rows), components, replace=False)].astype(np.float64)
    shares, scales = np.full(components, 1 / components), np.ones_like(means)

    def ours(nu: float, x: np.ndarray) -> None:
        mixture = Mixture(shares, means, scales, nu)
        for _ in range(STEPS):
            mixture, _ = step(x, mixture)

    def theirs(x: np.ndarray) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            GaussianMixture(
                components,
                covariance_type="diag",
                max_iter=STEPS,
                tol=0,
                reg_covar=1e-4,
                weights_init=shares,
                means_init=means,
                precisions_init=1 / scales,
                init_params="random",
            ).fit(x)

    double = rows.astype(np.float64)
    return {
        "scikit-learn GaussianMixture, float32": lambda: theirs(rows),
        "Gaussian mixture, float32": lambda: ours(np.inf, rows),
        "Student-t mixture, float32": lambda: ours(4.0, rows),
        "scikit-learn GaussianMixture, float64": lambda: theirs(double),
        "Student-t mixture, float64": lambda: ours(4.0, double),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--components", type=int, default=40)
    values = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((values.rows, values.dimensions), dtype=np.float32)
    rows += (
        3
        * rng.standard_normal((values.components, values.dimensions), dtype=np.float32)[
            rng.integers(values.components, size=values.rows)
        ]
    )
    compared = mixtures(rows, values.components)
    taken: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(ROUNDS):
        for name, work in compared.items():
            taken[name].append(seconds(work) / STEPS)
    table = Table(
        "",
        "ms an iteration",
        "of scikit-learn's",
        title=f"{values.rows:,} x {values.dimensions}, {values.components} components",
    )
    for name, times in taken.items():
        usual = statistics.median(taken[f"scikit-learn GaussianMixture, {name[-7:]}"])
        median = statistics.median(times)
        table.add_row(name, f"{1000 * median:.0f}", f"{median / usual:.2f}")
    Console().print(table)

    torch.set_num_threads(1)
    model = load(find("ddad"))
    assert isinstance(model, Loaded)
    image = torch.rand(1, 1, model.card.size, model.card.size)
    model(image)
    once = [seconds(lambda: model(image)) for _ in range(20)]
    Console().print(f"DDAD, six networks, one image: {1000 * statistics.median(once):.1f} ms of one core")


if __name__ == "__main__":
    main()
