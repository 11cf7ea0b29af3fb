"""Mixtures of Student's t distributions, fitted to embeddings that need not fit into memory.

CXR-CML clusters embeddings by a Gaussian mixture and refines it by Student's t distribution of nu = 4 (the article).
Here the mixture is one of t distributions from the start, by the EM algorithm of Peel and McLachlan (Statistics and
Computing 2000;10:339-348): a point far from all components has a low weight in every mean and covariance.
With ``nu = inf`` it is the Gaussian mixture. The authors' published code does neither: it fits anew on every batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast, overload

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.linalg import solve_triangular
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln

Float = NDArray[np.floating]
Covariance = Literal["diagonal", "full"]
CHUNK = 2048
"""Rows that are in memory at a time; as many as a processor's cache holds are the quickest."""
SAMPLE = 20_000
"""Rows from which the first means are sought."""
DROPPED = -1
"""Label of a row that no component is sure of."""


class Rows(Protocol):
    """Embeddings ``(N,d)`` that are read in slices: an array, a mapped file, :class:`Projected`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, d)``."""
        ...

    @overload
    def __getitem__(self, key: slice) -> Float: ...
    @overload
    def __getitem__(self, key: NDArray[np.intp]) -> Float: ...


def chunks(rows: Rows, size: int = CHUNK) -> Iterator[Float]:
    """``rows`` in order, at most ``size`` at a time, single or double precision as they are."""
    for start in range(0, rows.shape[0], size):
        part = rows[start : start + size]
        yield part if part.dtype in (np.float32, np.float64) else part.astype(np.float32)


@dataclass(frozen=True)
class Pca:
    """Principal components of embeddings."""

    mean: Float
    """``(D,)``."""
    basis: Float
    """``(D,d)``, orthonormal columns, the direction of the largest variance first."""
    variances: Float
    """``(d,)`` of the embeddings along them."""

    @classmethod
    def fit(cls, rows: Rows, dimensions: int) -> Pca:
        """Of ``rows (N,D)`` in one pass; ``dimensions`` at most as many as N - 1 and D allow."""
        count, width = rows.shape
        shift = np.asarray(rows[: min(CHUNK, count)], np.float64).mean(axis=0)
        total, square = np.zeros(width), np.zeros((width, width))
        for part in chunks(rows):
            moved = part - shift.astype(part.dtype)
            total += moved.sum(axis=0, dtype=np.float64)
            square += moved.T @ moved
        mean = total / count
        covariance = (square - count * np.outer(mean, mean)) / max(1, count - 1)
        values, vectors = np.linalg.eigh(covariance)
        kept = max(1, min(dimensions, width, count - 1))
        basis = vectors[:, ::-1][:, :kept]
        basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(kept)])  # eigenvectors have no sign
        return cls(shift + mean, basis, np.maximum(values[::-1][:kept], 0))

    def __call__(self, x: Float) -> NDArray[np.float32]:
        """``(N,D)`` -> ``(N,d)`` float32."""
        return np.asarray((x - self.mean.astype(x.dtype)) @ self.basis.astype(x.dtype), dtype=np.float32)


@dataclass(frozen=True)
class Projected:
    """Principal components of rows, computed when they are read."""

    rows: Rows
    pca: Pca

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, d)``."""
        return self.rows.shape[0], self.pca.basis.shape[1]

    def __getitem__(self, key: slice | NDArray[np.intp]) -> NDArray[np.float32]:
        """The rows of ``key``, projected, float32."""
        return self.pca(np.asarray(self.rows[key]))


@dataclass(frozen=True)
class Mixture:
    """K components in d dimensions."""

    weights: NDArray[np.float64]
    """``(K,)``, which make 1."""
    means: NDArray[np.float64]
    """``(K,d)``."""
    scales: NDArray[np.float64]
    """``(K,d)`` variances, or ``(K,d,d)`` covariance matrices, of the t distribution's scale; a t distribution's own
    variance is nu / (nu - 2) times that."""
    nu: float = 4.0
    """Degrees of freedom; inf: Gaussian."""

    def distances(self, x: Float) -> Float:
        """Squared Mahalanobis distances ``(N,K)`` of ``x (N,d)`` from the means."""
        if self.scales.ndim == 3:
            return self._full(x, self._whitening())
        return self._diagonal(_with_squares(x))

    def _whitening(self) -> NDArray[np.float64]:
        """Transposed inverse ``(K,d,d)`` of each scale's Cholesky factor: ``(x - mean) @ w`` has unit scale."""
        eye = np.eye(self.means.shape[1])
        lower = np.linalg.cholesky(self.scales)
        return np.stack([solve_triangular(one, eye, lower=True).T for one in lower])

    def _full(self, x: Float, whitening: NDArray[np.float64]) -> Float:
        """Squared Mahalanobis distances ``(N,K)`` of ``x (N,d)``, in its precision: one matrix product a component."""
        distances = np.empty((len(x), len(self.means)), x.dtype)
        for k, (mean, w) in enumerate(zip(self.means, whitening, strict=True)):
            y = x @ w.astype(x.dtype)
            y -= (mean @ w).astype(x.dtype)
            np.einsum("nd,nd->n", y, y, out=distances[:, k])
        return distances

    def _diagonal(self, z: Float) -> Float:
        """Squared Mahalanobis distances ``(N,K)`` of ``z (N,2d)``, values and their squares: one matrix product."""
        precision = 1 / self.scales
        by = np.concatenate([-2 * self.means * precision, precision], axis=1).T.astype(z.dtype)
        found = z @ by
        found += (self.means**2 * precision).sum(axis=1).astype(z.dtype)
        return np.maximum(found, 0, out=found)

    def _constants(self) -> NDArray[np.float64]:
        """Logarithm ``(K,)`` of a component's weight and of its density at its mean."""
        d = self.means.shape[1]
        if self.scales.ndim == 3:
            half_log = np.array([np.log(np.diag(np.linalg.cholesky(scale))).sum() for scale in self.scales])
        else:
            half_log = 0.5 * np.log(self.scales).sum(axis=1)
        with np.errstate(divide="ignore"):
            constants = np.log(self.weights) - half_log
        if np.isinf(self.nu):
            return np.asarray(constants - 0.5 * d * np.log(2 * np.pi))
        nu, power = self.nu, (self.nu + d) / 2
        normal = gammaln(power) - gammaln(nu / 2) - 0.5 * d * np.log(nu * np.pi)
        return np.asarray(constants + normal + power * np.log(nu))  # of (nu + m), where the density has 1 + m / nu

    def log_densities(self, x: Float) -> Float:
        """Logarithm ``(N,K)`` of each component's weighted density at ``x (N,d)``."""
        return self._log_densities(self.distances(x), self._constants())

    def _log_densities(self, distances: Float, constants: NDArray[np.float64]) -> Float:
        """From squared distances ``(N,K)``, to which a finite nu is added in place."""
        if np.isinf(self.nu):
            logs = distances * -0.5
        else:
            distances += distances.dtype.type(self.nu)
            logs = np.log(distances)  # log1p would be the slower by far
            logs *= -(self.nu + self.means.shape[1]) / 2
        logs += constants.astype(logs.dtype)
        return cast(Float, logs)

    def responsibilities(self, x: Float) -> Float:
        """Probability ``(N,K)`` that ``x (N,d)`` is of each component."""
        return _normalised(self.log_densities(x))[0]

    def likelihood(self, rows: Rows) -> float:
        """Mean logarithm of the density of ``rows (N,d)``."""
        total = sum(float(_normalised(self.log_densities(part))[1]) for part in chunks(rows))
        return total / rows.shape[0]

    def bic(self, rows: Rows) -> float:
        """Bayesian information criterion; less is better."""
        count, (components, d) = rows.shape[0], self.means.shape
        free = components * (d + (d * (d + 1) / 2 if self.scales.ndim == 3 else d)) + components - 1
        return -2 * count * self.likelihood(rows) + free * float(np.log(count))

    def labels(self, rows: Rows, least: float = 0.0) -> NDArray[np.int64]:
        """The likeliest component ``(N,)`` of each row, ``DROPPED`` where its probability is less than ``least``."""
        found = np.empty(rows.shape[0], dtype=np.int64)
        start = 0
        for part in chunks(rows):
            r = self.responsibilities(part)
            best = r.argmax(axis=1)
            best[r.max(axis=1) < least] = DROPPED
            found[start : start + len(part)] = best
            start += len(part)
        return found

    def matched(self, before: Mixture) -> Mixture:
        """This mixture with its components in the order of those of ``before`` that they continue.

        Pairs have the least sum of distances between means (Hungarian assignment); both have as many components.
        """
        return self.reordered(order_of(before.means, self.means))

    def reordered(self, order: NDArray[np.intp]) -> Mixture:
        """This mixture with its component ``order[k]`` as number k."""
        return replace(self, weights=self.weights[order], means=self.means[order], scales=self.scales[order])


def order_of(before: Float, after: Float) -> NDArray[np.intp]:
    """Which row of ``after (K,d)`` continues each of ``before (K,d)``: the assignment of the least sum of distances."""
    _, order = linear_sum_assignment(np.linalg.norm(before[:, None] - after[None], axis=2))
    return np.asarray(order)


@dataclass(frozen=True)
class Fit:
    """A fitted mixture, and the way to it."""

    mixture: Mixture
    history: tuple[float, ...]
    """Mean log likelihood before each iteration; it never falls by more than the regularisation does."""
    converged: bool


def fit(
    rows: Rows,
    components: int,
    *,
    nu: float = 4.0,
    covariance: Covariance = "diagonal",
    regularisation: float = 1e-4,
    iterations: int = 100,
    tolerance: float = 1e-3,
    starts: int = 3,
    seed: int = 0,
    start: Mixture | None = None,
) -> Fit:
    """The mixture of ``components`` that EM finds on ``rows (N,d)``, which are read once an iteration, in slices.

    It begins from ``start`` or, each with another seed, from k-means on ``SAMPLE`` rows ``starts`` times; the one with
    the highest likelihood after EM on these rows goes on with all of them. ``regularisation`` is added to all
    variances. Ends after ``iterations``, or where the mean log likelihood gains less than ``tolerance``. Raises
    ``ValueError`` for fewer rows than components, or nu of 0 or less.
    """
    count = rows.shape[0]
    if not 1 <= components <= count or nu <= 0:
        raise ValueError(f"{components} components of {count} rows, nu {nu}: at least a row each, and nu above 0")
    if start is None:
        drawn = np.sort(np.random.default_rng(seed).choice(count, min(count, SAMPLE), replace=False))
        sample = np.concatenate([rows[drawn[k : k + CHUNK]] for k in range(0, len(drawn), CHUNK)])
        tried = [
            _em(sample, _first(sample, components, nu, covariance, regularisation, seed + k), regularisation, 20, 1e-2)
            for k in range(max(1, starts))
        ]
        start = max(tried, key=lambda one: one.history[-1]).mixture
    return _em(rows, start, regularisation, iterations, tolerance)


def _em(rows: Rows, mixture: Mixture, regularisation: float, iterations: int, tolerance: float) -> Fit:
    history: list[float] = []
    for _ in range(iterations):
        after, likelihood = step(rows, mixture, regularisation)
        history.append(likelihood)
        if len(history) > 1 and abs(history[-1] - history[-2]) < tolerance:
            return Fit(mixture, tuple(history), True)
        mixture = after
    return Fit(mixture, tuple(history), False)


def step(rows: Rows, mixture: Mixture, regularisation: float = 1e-4) -> tuple[Mixture, float]:
    """One iteration of EM on ``rows (N,d)``: the mixture after it, and the mean log likelihood before it.

    With responsibilities r and weights ``u = (nu + d) / (nu + m)``, m the squared Mahalanobis distance, the means are
    ``sum(r u x) / sum(r u)`` and the scales ``sum(r u (x - mean)^2) / sum(r)`` (Peel and McLachlan, equations 22 to
    24). The sums are double precision whatever the rows are.
    """
    d, full, nu = rows.shape[1], mixture.scales.ndim == 3, mixture.nu
    components = len(mixture.weights)
    shift = mixture.weights @ mixture.means
    centred = replace(mixture, means=mixture.means - shift)  # squares of far-off numbers would lose digits
    mass, weighted = np.zeros(components), np.zeros(components)
    sums, squares = np.zeros((components, d)), np.zeros((components, d, d) if full else (components, d))
    whitening, constants = (centred._whitening() if full else np.empty(0)), centred._constants()  # once, not a chunk
    total = 0.0
    for part in chunks(rows):
        x = part - shift.astype(part.dtype)
        z = x if full else _with_squares(x)
        distances = centred._full(x, whitening) if full else centred._diagonal(z)
        r, likelihood = _normalised(centred._log_densities(distances, constants))
        total += likelihood
        mass += r.sum(axis=0, dtype=np.float64)
        if not np.isinf(nu):
            r /= distances  # which are nu + m by now
            r *= r.dtype.type(nu + d)
        weighted += r.sum(axis=0, dtype=np.float64)
        found = r.T @ z
        sums += found[:, :d]
        if full:
            for k in range(components):
                squares[k] += (x * r[:, k : k + 1]).T @ x
        else:
            squares += found[:, d:]
    mass, weighted = np.maximum(mass, 1e-10), np.maximum(weighted, 1e-10)
    means = sums / weighted[:, None]
    if full:
        spread = squares - weighted[:, None, None] * means[:, :, None] * means[:, None, :]
        scales = spread / mass[:, None, None] + regularisation * np.eye(d)
    else:
        scales = np.maximum(squares - weighted[:, None] * means**2, 0) / mass[:, None] + regularisation
    return Mixture(mass / mass.sum(), means + shift, scales, nu), total / rows.shape[0]


def _first(
    sample: Float, components: int, nu: float, covariance: Covariance, regularisation: float, seed: int
) -> Mixture:
    """The mixture of the clusters that k-means finds."""
    rows = sample.astype(np.float64)
    # Seeds that are far apart find small clusters, and outliers where tails are heavy; rows at random seldom do.
    seeds = "++" if seed % 2 else rows[np.random.default_rng(seed).choice(len(rows), components, replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an empty cluster, which keeps its mean
        if isinstance(seeds, str):
            means, member = kmeans2(rows, components, iter=10, minit="++", seed=seed)
        else:
            means, member = kmeans2(rows, seeds, iter=10, minit="matrix")
    shares = np.bincount(member, minlength=components) + 1.0
    # One robust scale for all: a cluster of outliers would begin, and stay, with a variance that holds everything.
    residual = np.abs(sample - means[member])
    scales = np.tile((1.4826 * np.median(residual, axis=0)) ** 2 + regularisation, (components, 1))
    if covariance == "full":
        scales = np.stack([np.diag(scale) for scale in scales])
    return Mixture(shares / shares.sum(), np.asarray(means), scales, nu)


def _with_squares(x: Float) -> Float:
    """``(N,d)`` -> ``(N,2d)``: the values, then their squares."""
    found = np.empty((len(x), 2 * x.shape[1]), x.dtype)
    found[:, : x.shape[1]] = x
    np.square(x, out=found[:, x.shape[1] :])
    return found


def _normalised(logs: Float) -> tuple[Float, float]:
    """Softmax ``(N,K)`` of ``logs``, which it takes the place of, and the sum of their log-sum-exp."""
    highest = logs.max(axis=1, keepdims=True)
    logs -= highest
    np.exp(logs, out=logs)
    totals = logs.sum(axis=1, keepdims=True)
    logs /= totals
    likelihood = float(highest.sum(dtype=np.float64) + np.log(totals).sum(dtype=np.float64))
    return logs, likelihood


def class_weights(labels: NDArray[np.int64], components: int) -> NDArray[np.float64]:
    """Weight ``(K,)`` of each component by how many rows it has: in proportion to ``1 / log(1 + n)``, the mean over
    the rows that have one is 1; 0 for an empty one. ``labels (N,)`` may hold ``DROPPED``.
    """
    counts = np.bincount(labels[labels != DROPPED], minlength=components)
    found = np.where(counts > 0, 1 / np.log1p(np.maximum(counts, 1)), 0.0)
    total = float(counts @ found)
    return found * (counts.sum() / total) if total else found
