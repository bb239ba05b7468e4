"""Metrics against SciPy, loops and laws whose distances are known."""

import warnings

import numpy as np
import pytest
import scipy.linalg
from scipy import stats
from scipy.spatial.distance import cdist

from diffusion import metrics


def draw(n, d=3, seed=0, shift=0.0, scale=1.0):
    return shift + scale * np.random.default_rng(seed).normal(size=(n, d))


def test_frechet_distance_is_that_of_the_matrix_root():
    rng = np.random.default_rng(0)
    a, b = draw(50, 4), draw(60, 4, 1) @ rng.normal(size=(4, 4)) + 0.3
    first, second = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(first + second - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert metrics.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-12)
    # Of normal laws N(m, s^2 I) and N(0, I): |m|^2 + d (s - 1)^2.
    far = metrics.frechet_distance(draw(100_000, 2, 2, 1.0, 2.0), draw(100_000, 2, 3))
    assert far == pytest.approx(2 * 1.0 + 2 * 1.0, abs=0.06)


def test_too_few_samples_are_warned_about_with_their_number():
    with pytest.warns(UserWarning, match="n = 5 for 3 features; the distance is mostly bias"):
        metrics.frechet_distance(draw(5), draw(50))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.frechet_distance(draw(6), draw(50))
    assert np.isfinite(metrics.frechet_distance(draw(20, 1), draw(20, 1, 1)))


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 30), (7, 50)])
def test_one_dimensional_w2_is_the_transport(n, m):
    a, b = draw(n, 1)[:, 0], draw(m, 1, 1, 0.5)[:, 0]
    cost = (a[:, None] - b) ** 2
    equal = np.concatenate(
        [
            np.kron(np.eye(n), np.ones(m)),
            np.kron(np.ones(n), np.eye(m)),
        ]
    )
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    best = scipy.optimize.linprog(cost.ravel(), A_eq=equal, b_eq=marginals).fun
    result = metrics.wasserstein_1d(a[:, None], b[:, None])[0]
    assert result == pytest.approx(best, rel=1e-7)


def test_sliced_w2_of_a_shift_is_its_projection():
    a = draw(500, 3)
    shift = np.array([1.0, 2.0, -2.0])
    vectors = np.random.default_rng(0).normal(size=(3, 256))
    vectors /= np.linalg.norm(vectors, axis=0)
    expected = np.sqrt(np.mean((shift @ vectors) ** 2))
    assert metrics.sliced_wasserstein(a + shift, a) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(3.0 / np.sqrt(3.0), rel=0.1)
    assert metrics.sliced_wasserstein(a, a[::-1], 8, 1) == 0.0


def test_energy_distance_and_mmd_against_loops_and_scipy():
    a, b = draw(12, 2), draw(9, 2, 1, 0.4)

    def apart(x, function):
        pairs = [function(np.linalg.norm(p - q)) for p in x for q in x if p is not q]
        return np.mean(pairs)

    def plain(r):
        return r

    crossed = np.mean([np.linalg.norm(p - q) for p in a for q in b])
    expected = 2 * crossed - apart(list(a), plain) - apart(list(b), plain)
    assert metrics.energy_distance(a, b) == pytest.approx(expected, rel=1e-12)

    def kernel(r):
        return np.exp(-(r**2) / (2 * 0.7**2))

    crossed = np.mean(kernel(cdist(a, b)))
    expected = apart(list(a), kernel) + apart(list(b), kernel) - 2 * crossed
    assert metrics.mmd(a, b, 0.7) == pytest.approx(expected, rel=1e-12)
    # SciPy's is biased and the root of half of it in one dimension.
    x, y = draw(4000, 1), draw(4000, 1, 1, 1.0)
    known = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert metrics.energy_distance(x, y) == pytest.approx(known, rel=0.01)
    values = [metrics.energy_distance(draw(50, 2, s), draw(50, 2, s + 99)) for s in range(60)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(60)  # unbiased
    assert metrics.mmd(draw(50, 2), draw(50, 2, 1)) < metrics.mmd(
        draw(50, 2, 0, 1.0), draw(50, 2, 1)
    )


def test_precision_and_recall_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    fake = np.array([[0.5], [0.6], [30.0], [31.0]])
    # k = 1: real radii 1, 1, 1, 8; fake radii .1, .1, 1, 1
    result = metrics.prdc(fake, real, 1)
    assert result.precision == 0.5
    assert result.recall == 0.0
    assert result.density == pytest.approx((2 + 2) / 4)  # 0.5 and 0.6 lie in the balls of 0 and 1
    assert result.coverage == 0.5
    same = metrics.prdc(draw(200), draw(200, seed=1))
    assert same.precision > 0.9 and same.recall > 0.9 and 0.8 < same.density < 1.2
    one = metrics.prdc(np.repeat(draw(1), 200, 0) + 1e-6 * draw(200), draw(200, seed=1))
    assert one.recall < 0.05 and one.coverage < 0.2


def test_reports_compare_equal_numbers_and_keep_what_they_compared():
    sets = draw(300, seed=1), draw(500, seed=2), draw(200, seed=3)
    report = metrics.report(
        metrics.energy_distance, *sets, ceilings={"moved": draw(400, shift=2.0)}, seed=4
    )
    assert (report.n, report.seed) == (200, 4)
    assert report.floor < report.ceilings["moved"] and report.value < report.ceilings["moved"]
    assert report.floor == metrics.report(metrics.energy_distance, *sets, seed=4).floor
    chosen = np.sort(np.random.default_rng(4).permutation(300)[:200])
    assert len(np.unique(chosen)) == 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.frechet_distance(draw(1), draw(5)), "samples: expected at least 2 rows"),
        (
            lambda: metrics.frechet_distance(draw(5), draw(5, 2)),
            "samples, reference: expected",
        ),
        (
            lambda: metrics.energy_distance(draw(5), np.full((5, 3), np.nan)),
            "reference: expected finite values",
        ),
        (
            lambda: metrics.sliced_wasserstein(draw(5), draw(5), 0),
            "directions: expected a whole",
        ),
        (lambda: metrics.mmd(draw(5), draw(5), 0.0), "bandwidth: expected a positive number"),
        (lambda: metrics.prdc(draw(5), draw(9)), "samples: expected at least 6 rows"),
        (
            lambda: metrics.prdc(draw(5), draw(9), 0),
            "k: expected a whole number of at least 1",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
