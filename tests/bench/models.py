"""A step of the mixture's EM beside scikit-learn's, embeddings read from disk, and what an image of DDAD costs.

    python tests/bench/models.py [--rows 100000] [--dimensions 64] [--components 40] [--rounds 5]

Mixtures start from the same means and take turns, one iteration each (E step, M step), without what either does before
the first; medians of the rounds and their ratio. One thread, and the clock is this process's own, so that other
programs on the machine do not count; of DDAD also the time on the wall with two threads, where they do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.mixture import GaussianMixture

from chexmodels.bundle import find
from chexmodels.interpret import interpret
from chexmodels.pixels import Geometry
from chexmodels.registry import Loaded, load
from chextrain.fit.mixture import Mixture, Pca, Projected, fit, step

Iteration = Callable[[], object]
WIDTH = 512
"""Of the embeddings that stay on disk."""


def seconds(work: Iteration, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of ``work`` by ``clock``."""
    start = clock()
    work()
    return clock() - start


def ours(x: np.ndarray, start: Mixture) -> Iteration:
    """An iteration of ours, from where the one before it came to."""
    state = [start]

    def iterate() -> None:
        state[0], _ = step(x, state[0])

    return iterate


def theirs(x: np.ndarray, start: Mixture) -> Iteration:
    """An iteration of scikit-learn's: what its ``fit`` does in its loop."""
    full = start.scales.ndim == 3
    mixture = GaussianMixture(
        len(start.weights),
        covariance_type="full" if full else "diag",
        reg_covar=1e-4,
        weights_init=start.weights.astype(x.dtype),
        means_init=start.means.astype(x.dtype),
        precisions_init=(np.linalg.inv(start.scales) if full else 1 / start.scales).astype(x.dtype),
        init_params="random",
    )
    mixture._initialize_parameters(x, np.random.RandomState(0))

    def iterate() -> None:
        likelihood, log_responsibilities = mixture._e_step(x)
        mixture._m_step(x, log_responsibilities)
        mixture._compute_lower_bound(log_responsibilities, likelihood)

    return iterate


def mixtures(rows: np.ndarray, components: int) -> dict[str, dict[str, Iteration]]:
    """What is compared: covariance and precision, then whose."""
    rng = np.random.default_rng(1)
    means = rows[rng.choice(len(rows), components, replace=False)].astype(np.float64)
    shares, diagonal = np.full(components, 1 / components), np.ones_like(means)
    full = np.tile(np.eye(rows.shape[1]), (components, 1, 1))
    compared = {}
    for name, scales in (("diagonal", diagonal), ("full", full)):
        for x in (rows, rows.astype(np.float64)):
            compared[f"{name}, {x.dtype}"] = {
                "scikit-learn, Gaussian": theirs(x, Mixture(shares, means, scales, np.inf)),
                "ours, Gaussian": ours(x, Mixture(shares, means, scales, np.inf)),
                "ours, Student's t": ours(x, Mixture(shares, means, scales, 4.0)),
            }
    return compared


def bench_mixtures(count: int, dimensions: int, components: int, rounds: int) -> None:
    """Print a row for each mixture."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, dimensions), dtype=np.float32)
    rows += 3 * rng.standard_normal((components, dimensions), dtype=np.float32)[rng.integers(components, size=count)]
    title = f"{count:,} x {dimensions}, {components} components"
    table = Table("covariance", "mixture", "ms an iteration", "of scikit-learn's", title=title)
    for kind, compared in mixtures(rows, components).items():
        taken: dict[str, list[float]] = {name: [] for name in compared}
        for _ in range(rounds):
            for name, iterate in compared.items():
                taken[name].append(seconds(iterate))
        usual = statistics.median(taken["scikit-learn, Gaussian"])
        for name, times in taken.items():
            median = statistics.median(times)
            table.add_row(kind, name, f"{1000 * median:.0f}", f"{median / usual:.2f}")
    Console().print(table)


def bench_disk(count: int, dimensions: int, components: int) -> None:
    """Print what a whole fit of embeddings in a file allocates and takes."""
    with tempfile.TemporaryDirectory() as folder:
        path, rng = Path(folder) / "embeddings.npy", np.random.default_rng(2)
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, WIDTH))
        for start in range(0, count, 10_000):
            part = mapped[start : start + 10_000]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        mapped.flush()
        kept: np.ndarray = np.load(path, mmap_mode="r")

        def whole() -> None:
            projected = Projected(kept, Pca.fit(kept, dimensions))
            fit(projected, components, iterations=10, tolerance=0, starts=1).mixture.labels(projected, 0.6)

        tracemalloc.start()
        spent = seconds(whole)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        done = "components, k-means, ten iterations and labels"
        size = path.stat().st_size / 1e6
        Console().print(
            f"{count:,} x {WIDTH} in {size:.0f} MB: {done} in {spent:.0f} s, {peak:.0f} MB allocated at most"
        )


def bench_ddad(rounds: int) -> None:
    """Print what one image costs from its pixels on."""
    model = load(find("ddad"))
    assert isinstance(model, Loaded)
    square = torch.rand(1, 1, model.card.size, model.card.size)
    (raw,) = model(square).items()
    geometry = Geometry(2048, 2048, model.card.size)
    parts: dict[str, Iteration] = {
        "six networks": lambda: model(square),
        "from their answers to findings of 2048 x 2048": lambda: interpret(raw, model.card, "second_reader", geometry),
    }
    for name, work in parts.items():
        torch.set_num_threads(1)
        one = statistics.median(seconds(work) for _ in range(4 * rounds))
        torch.set_num_threads(2)
        wall = statistics.median(seconds(work, time.perf_counter) for _ in range(4 * rounds))
        Console().print(f"DDAD, {name}: {1000 * one:.1f} ms of one core; on the wall, two threads {1000 * wall:.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--components", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    values = parser.parse_args()
    bench_mixtures(values.rows, values.dimensions, values.components, values.rounds)
    bench_disk(values.rows, values.dimensions, values.components)
    bench_ddad(values.rounds)


if __name__ == "__main__":
    main()
