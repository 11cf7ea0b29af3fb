"""Student-t mixtures: densities and one step by hand, Gaussian in the limit, heavy tails, rows that stay on disk."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal, multivariate_t
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from chextrain.fit import mixture as mixtures
from chextrain.fit.mixture import DROPPED, Mixture, Pca, Projected, class_weights, fit, step

TWO = Mixture(np.array([0.25, 0.75]), np.array([[0.0, 0.0], [3.0, 1.0]]), np.array([[1.0, 4.0], [0.25, 1.0]]), 4.0)


def full(mixture: Mixture) -> Mixture:
    return Mixture(mixture.weights, mixture.means, np.stack([np.diag(scale) for scale in mixture.scales]), mixture.nu)


def heavy(seed: int, per: int = 400, nu: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, members and means of four heavy-tailed clusters, of which one is rare."""
    rng = np.random.default_rng(seed)
    means = np.array([[0, 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0]], dtype=float)
    counts = [per, per, per, per // 5]
    member = np.repeat(np.arange(4), counts)
    noise = rng.normal(size=(len(member), 4)) / np.sqrt(rng.chisquare(nu, size=(len(member), 1)) / nu)
    return means[member] + noise, member, means


def test_densities_are_those_of_scipy() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    for nu in (4.0, 1.0, np.inf):
        for one in (Mixture(TWO.weights, TWO.means, TWO.scales, nu), full(Mixture(*_but(TWO, nu)))):
            scipy = [
                np.log(w)
                + (
                    multivariate_normal.logpdf(x, m, np.diag(s))
                    if np.isinf(nu)
                    else multivariate_t.logpdf(x, m, np.diag(s), df=nu)
                )
                for w, m, s in zip(TWO.weights, TWO.means, TWO.scales, strict=True)
            ]
            np.testing.assert_allclose(one.log_densities(x), np.stack(scipy, axis=1), atol=1e-10)


def _but(mixture: Mixture, nu: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    return mixture.weights, mixture.means, mixture.scales, nu


def test_one_step_by_hand() -> None:
    """One component on the points 0, 1 and 5 of a line: nu = 4, mean 1, scale 4."""
    x = np.array([[0.0], [1.0], [5.0]])
    u = np.array([5 / (4 + 0.25), 5 / 4, 5 / (4 + 4)])
    mean = float(u @ x[:, 0] / u.sum())
    scale = float(u @ (x[:, 0] - mean) ** 2 / 3)
    after, likelihood = step(x, Mixture(np.ones(1), np.array([[1.0]]), np.array([[4.0]]), 4.0), regularisation=0)
    assert after.means[0, 0] == pytest.approx(mean)
    assert after.scales[0, 0] == pytest.approx(scale)
    assert likelihood == pytest.approx(float(multivariate_t.logpdf(x, [1.0], [[4.0]], df=4).mean()))


def test_a_step_of_several_components_is_the_formulas() -> None:
    """Against a straight loop over rows and components, diagonal and full."""
    x = np.random.default_rng(1).normal(size=(50, 2)) * 2 + 1
    for nu in (4.0, np.inf):
        before = Mixture(*_but(TWO, nu))
        r = before.responsibilities(x)
        for one in (before, full(before)):
            after, _ = step(x, one, regularisation=0.0)
            for k in range(2):
                m = [(p - before.means[k]) @ np.diag(1 / before.scales[k]) @ (p - before.means[k]) for p in x]
                u = np.array([1.0 if np.isinf(nu) else (nu + 2) / (nu + each) for each in m])
                mean = sum(r[i, k] * u[i] * x[i] for i in range(50)) / sum(r[i, k] * u[i] for i in range(50))
                outer = sum(r[i, k] * u[i] * np.outer(x[i] - mean, x[i] - mean) for i in range(50)) / r[:, k].sum()
                np.testing.assert_allclose(after.means[k], mean)
                np.testing.assert_allclose(after.weights[k], r[:, k].mean())
                np.testing.assert_allclose(after.scales[k], outer if one.scales.ndim == 3 else np.diag(outer))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_with_nu_towards_infinity_it_is_scikit_learns(covariance: mixtures.Covariance) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(200, 3)), rng.normal(size=(100, 3)) * (0.5, 2, 1) + 5])
    kind = "diag" if covariance == "diagonal" else "full"
    theirs = GaussianMixture(2, covariance_type=kind, reg_covar=1e-6, tol=1e-10, max_iter=500, random_state=0).fit(x)
    for nu in (1e7, np.inf):
        ours = fit(x, 2, nu=nu, covariance=covariance, regularisation=1e-6, tolerance=1e-10, iterations=500).mixture
        ours = ours.matched(Mixture(theirs.weights_, theirs.means_, theirs.covariances_, nu))
        np.testing.assert_allclose(ours.weights, theirs.weights_, atol=1e-5)
        np.testing.assert_allclose(ours.means, theirs.means_, atol=1e-4)
        np.testing.assert_allclose(ours.scales, theirs.covariances_, atol=1e-4)
        assert ours.likelihood(x) == pytest.approx(theirs.score(x), abs=1e-6)
        assert ours.bic(x) == pytest.approx(theirs.bic(x), rel=1e-6)
    distant = fit(x, 2, nu=4.0, tolerance=1e-10).mixture
    assert abs(distant.likelihood(x) - theirs.score(x)) > 1e-3  # nu does something


def test_heavy_tailed_clusters_come_back_where_a_gaussian_mixture_loses_them() -> None:
    students, gaussians = [], []
    for seed in range(5):
        x, member, means = heavy(seed)
        found = fit(x, 4, nu=4.0, tolerance=1e-6, iterations=300, starts=10, seed=seed)
        student = found.mixture.matched(Mixture(np.ones(4) / 4, means, np.ones((4, 4)), 4.0))
        gaussian = GaussianMixture(4, covariance_type="diag", reg_covar=1e-4, n_init=10, random_state=seed).fit(x)
        students.append(adjusted_rand_score(member, student.labels(x)))
        gaussians.append(adjusted_rand_score(member, gaussian.predict(x)))
        np.testing.assert_allclose(student.means, means, atol=0.6)
        np.testing.assert_allclose(student.weights, np.bincount(member) / len(member), atol=0.05)
        gains = np.diff(found.history)
        assert (gains > -1e-3).all()
    assert min(students) > 0.88
    assert np.mean(students) > np.mean(gaussians) + 0.2


def test_it_finds_parameters_of_its_own_kind() -> None:
    rng = np.random.default_rng(3)
    nu, count = 4.0, 6000
    member = rng.choice(2, count, p=(0.3, 0.7))
    means, scales = np.array([[-3.0, 0.0], [3.0, 1.0]]), np.array([[1.0, 0.5], [0.6, 1.5]])
    x = means[member] + rng.normal(size=(count, 2)) * np.sqrt(scales[member]) / np.sqrt(
        rng.chisquare(nu, (count, 1)) / nu
    )
    truth = Mixture(np.array([0.3, 0.7]), means, scales, nu)
    found = fit(x, 2, nu=nu, tolerance=1e-8, iterations=400).mixture.matched(truth)
    np.testing.assert_allclose(found.weights, truth.weights, atol=0.02)
    np.testing.assert_allclose(found.means, means, atol=0.1)
    np.testing.assert_allclose(found.scales, scales, rtol=0.12)


def test_far_from_zero_single_precision_is_enough() -> None:
    x, _, means = heavy(0, nu=4.0)
    near = fit(x.astype(np.float32), 4, seed=1).mixture
    far = fit((x + 300).astype(np.float32), 4, seed=1).mixture
    np.testing.assert_allclose(far.matched(Mixture(*_but(near, 4.0))).means - 300, near.means, atol=0.05)
    assert np.abs(near.matched(Mixture(near.weights, means, near.scales)).means - means).max() < 0.6


def test_components_keep_their_number_from_epoch_to_epoch() -> None:
    rng = np.random.default_rng(4)
    before = Mixture(np.full(5, 0.2), rng.normal(size=(5, 3)) * 5, rng.uniform(1, 2, (5, 3)))
    order = np.array([3, 0, 4, 1, 2])
    after = Mixture(before.weights, before.means[order] + 0.1, before.scales[order])
    np.testing.assert_allclose(after.matched(before).means, before.means + 0.1)
    np.testing.assert_allclose(after.matched(before).scales, before.scales)


def test_labels_below_the_cut_are_dropped() -> None:
    one = Mixture(np.array([0.5, 0.5]), np.array([[-2.0], [2.0]]), np.ones((2, 1)), np.inf)
    x = np.array([[-2.0], [0.05], [2.0]])
    sure = 1 / (1 + np.exp(-4 * 0.05))  # of the middle row: the densities differ by exp(4 x)
    assert one.responsibilities(x)[1, 1] == pytest.approx(sure)
    assert one.labels(x, 0.6).tolist() == [0, DROPPED, 1]
    assert one.labels(x, sure - 1e-6).tolist() == [0, 1, 1]


def test_class_weights() -> None:
    found = class_weights(np.array([0] * 7 + [1] + [DROPPED] * 4), 3)
    assert found[2] == 0
    assert found[1] / found[0] == pytest.approx(np.log(8) / np.log(2))
    assert (7 * found[0] + found[1]) / 8 == pytest.approx(1)
    assert class_weights(np.array([DROPPED]), 2).tolist() == [0, 0]


def test_principal_components_are_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(9000, 12)) * np.arange(1, 13) + 40).astype(np.float32)
    ours, theirs = Pca.fit(x, 3), PCA(3).fit(x)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(ours.basis.T @ theirs.components_.T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(np.abs(ours(x)), np.abs(theirs.transform(x)), atol=0.05)
    assert Pca.fit(x[:3], 64).basis.shape == (12, 2)


@pytest.mark.parametrize(("rows", "components", "nu"), [(3, 4, 4.0), (3, 0, 4.0), (3, 2, 0.0)])
def test_what_cannot_be_fitted_is_refused(rows: int, components: int, nu: float) -> None:
    with pytest.raises(ValueError, match="components"):
        fit(np.zeros((rows, 2)), components, nu=nu)


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_embeddings_stay_on_disk(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated does not grow with their number; 100,000 of them are 205 MB."""
    monkeypatch.setattr(mixtures, "SAMPLE", 2_000)
    path, rng = tmp_path / "embeddings.npy", np.random.default_rng(6)
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, 512))
    for start in range(0, count, 10_000):
        mapped[start : start + 10_000] = rng.standard_normal((10_000, 512), dtype=np.float32)
        mapped[start : start + 10_000 : 2, :8] += 6
    mapped.flush()
    kept: np.ndarray = np.load(path, mmap_mode="r")
    tracemalloc.start()
    pca = Pca.fit(kept, 16)
    found = fit(Projected(kept, pca), 2, iterations=2, starts=1)
    labels = found.mixture.labels(Projected(kept, pca), 0.6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    assert adjusted_rand_score(np.arange(count) % 2, labels) > 0.99
