"""Fits against population optima, other optimisers and their own optimality certificate."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from reference import fourier

from fourier_density import PeriodicDensity, fit, fit_weights, likelihood


def coefficients(result):
    return np.asarray(result.density.coefficients)


def draw(a, count, seed):
    """Rejection sampling from the reference density, bounded by (N + 1) / 2."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, 40 * count)
    keep = rng.uniform(0, 0.5 * len(a), x.size) < fourier.density(a, x)
    assert keep.sum() >= count
    return x[keep][:count]


@pytest.fixture(scope="module")
def sample():
    """300 weighted points of a density of order 5, and a fit of order 4."""
    with jax.enable_x64(True):
        x = draw(fourier.random_coefficients(7, 5), 300, 0)
        w = np.random.default_rng(1).uniform(0.5, 1.5, 300)
        return x, w / w.sum(), fit(x, 4, weights=w)


@pytest.mark.parametrize(("order", "optimum"), [(8, 5.07e-2), (13, 3.73e-3), (16, 1.47e-3)])
def test_population_optimum_of_the_ten_gaussians(order, optimum, x64):
    result = fit_weights(fourier.tut10(fourier.nodes(4096)), order)
    reached = fourier.divergence(fourier.tut10, coefficients(result))
    assert abs(reached / optimum - 1.0) < 0.02
    assert result.certificate < 1e-9  # at 16 there is a root next to the circle


@pytest.mark.parametrize(("order", "optimum"), [(8, 0.0373), (13, 0.0230)])
def test_population_optimum_of_the_square(order, optimum, x64):
    # Both jumps lie between nodes, so that sampling is exact up to one cell in 3000.
    result = fit_weights(fourier.square(fourier.nodes(8192)), order)
    reached = fourier.divergence(fourier.square, coefficients(result))
    assert abs(reached / optimum - 1.0) < 0.02


def test_a_density_of_the_family_is_recovered_exactly_from_its_masses(x64):
    a = fourier.random_coefficients(3, 5)
    result = fit_weights(fourier.density(a, fourier.nodes(1024)), 5)
    # The optimiser stops where the objective is flat to rounding.
    assert fourier.divergence(lambda x: fourier.density(a, x), coefficients(result)) < 1e-10


def test_a_density_of_the_family_is_recovered_from_samples(x64):
    a = fourier.random_coefficients(3, 5)
    x = draw(a, 20_000, 2)
    result = fit(x, 5)
    reached = fourier.divergence(lambda x: fourier.density(a, x), coefficients(result))
    # 2 n KL follows a chi-squared law with 10 degrees of freedom: the bound is six sigmas.
    assert reached < (10 + 6 * np.sqrt(20)) / (2 * 20_000)
    truth = -fourier.log_likelihood(np.full(x.size, 1 / x.size), x, a)
    assert result.train_nll < truth  # the maximum is above the true density


def test_train_nll_is_that_of_the_samples(sample):
    x, w, result = sample
    expected = -fourier.log_likelihood(w, x, coefficients(result))
    np.testing.assert_allclose(result.train_nll, expected, atol=1e-12, rtol=0)


def test_certificate_is_the_largest_eigenvalue_of_the_explicit_matrix(sample):
    x, w, result = sample
    a = coefficients(result)
    a = a / np.linalg.norm(a)
    r = np.zeros((5, 5), complex)
    for weight, point in zip(w, x, strict=True):
        v = np.exp(-1j * np.pi * point * np.arange(5))
        r += weight * np.outer(v, v.conj()) / np.abs(v.conj() @ a) ** 2
    expected = np.log(np.linalg.eigvalsh(r)[-1])
    np.testing.assert_allclose(result.certificate, expected, atol=1e-10, rtol=0)


def test_certificate_of_a_converged_fit_bounds_another_optimiser(sample):
    x, w, result = sample
    assert 0 <= result.certificate < 1e-5
    other = fourier.tomography(w, x, 4, 1500)
    gain = other + result.train_nll
    assert -1e-3 < gain <= result.certificate + 1e-13
    rng = np.random.default_rng(2)
    a = coefficients(result)
    for size in (1e-6, 1e-4, 1e-2, 1.0):
        b = a + size * (rng.normal(size=5) + 1j * rng.normal(size=5))
        gain = fourier.log_likelihood(w, x, b) + result.train_nll
        assert gain <= result.certificate + 1e-13


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_certificate_of_an_interrupted_fit_bounds_the_longer_run(iterations, sample):
    x, w, best = sample
    short = fit(x, 4, weights=w, max_iterations=iterations)
    assert short.iterations <= iterations
    missing = short.train_nll - best.train_nll
    assert 1e-7 < missing <= short.certificate


def test_fitted_density_is_stationary_under_single_perturbations(sample):
    """Binning on 5120 nodes shifts the optimum by O(1e-7) in likelihood."""
    x, w, result = sample
    a, rng = coefficients(result), np.random.default_rng(3)
    for _ in range(20):
        b = a + 1e-3 * (rng.normal(size=5) + 1j * rng.normal(size=5))
        assert fourier.log_likelihood(w, x, b) < -result.train_nll + 1e-7


def test_integer_weights_equal_repeated_samples(x64):
    x = draw(fourier.random_coefficients(7, 5), 60, 4)
    counts = np.random.default_rng(5).integers(0, 4, 60)
    weighted, repeated = fit(x, 3, weights=counts), fit(np.repeat(x, counts), 3)
    np.testing.assert_allclose(weighted.train_nll, repeated.train_nll, atol=1e-10, rtol=0)
    grid = np.linspace(-1, 1, 50)
    # Likelihoods equal to 1e-12 fix the density to the square root of that.
    np.testing.assert_allclose(
        fourier.density(coefficients(weighted), grid),
        fourier.density(coefficients(repeated), grid),
        atol=1e-5,
        rtol=0,
    )


def test_missing_weights_are_equal_weights(sample):
    x, _, _ = sample
    plain, equal = fit(x, 4), fit(x, 4, weights=np.full(x.size, 3.0))
    np.testing.assert_allclose(plain.train_nll, equal.train_nll, atol=1e-12, rtol=0)
    assert abs(plain.train_nll - sample[2].train_nll) > 1e-5  # the weights do matter


def test_both_ends_of_the_interval_are_one_point(x64):
    x = np.array([-0.2, 0.1, 0.4, 0.7, 1.0])
    right, left = fit(x, 2), fit(np.where(x == 1.0, -1.0, x), 2)
    np.testing.assert_allclose(right.train_nll, left.train_nll, atol=1e-12, rtol=0)


def test_fit_returns_plain_numbers_and_a_density(sample):
    result = sample[2]
    assert isinstance(result.density, PeriodicDensity)
    assert result.density.order == 4
    assert [type(value) for value in result[1:]] == [float, float, int, dict]


def from_roots(roots):
    return np.polynomial.polynomial.polyfromroots(np.asarray(roots))


@pytest.mark.parametrize(
    "roots",
    [[0.5 + 0.2j], [0.5, -0.3j, 1.7], [0.2j, 1.4, -1.6 + 0.3j, 0.6 - 0.3j, -2.5]],
)
def test_minimum_phase_start_reproduces_the_autocorrelation(roots):
    c = fourier.autocorrelation(from_roots(roots))
    b = likelihood.minimum_phase(c, 512)  # 0.72^512 is far below rounding
    np.testing.assert_allclose(fourier.autocorrelation(b), c, atol=1e-12 * abs(c[0]), rtol=0)
    assert np.all(np.abs(np.polynomial.polynomial.polyroots(b)) > 1.3)


def test_start_of_a_minimum_phase_polynomial_is_itself():
    a = from_roots([1.5, -2.0 + 1.0j, 1.8j])
    b = likelihood.minimum_phase(fourier.autocorrelation(a), 512)
    np.testing.assert_allclose(b, a * np.abs(a[0]) / a[0], atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], 2), {}, r"samples: expected a non-empty vector, got shape \(0,\)"),
        ((["a"], 2), {}, "samples: expected a vector of real numbers, got list"),
        ((np.ones(3) + 1j, 2), {}, "samples: expected a vector of real numbers, got complex128"),
        (([[0.1, 0.2]], 2), {}, r"samples: expected a non-empty vector, got shape \(1, 2\)"),
        ((np.ma.masked_greater([0.1, 0.2], 0.15), 2), {}, "samples: some are masked; leave them"),
        (([0.1, np.nan], 2), {}, "samples: expected finite values"),
        (([0.1, 1.5], 2), {}, r"samples: expected values in \[-1, 1\], got \[0.1, 1.5\]"),
        (([0.1, 0.2], 0), {}, "order: expected an integer >= 1, got 0"),
        (([0.1, 0.2], 10**6), {}, "order: expected at most 4096, got 1000000"),
        (([0.1, 0.2], 1), {"weights": [1.0]}, r"weights: expected shape \(2,\)"),
        (([0.1, 0.2], 1), {"weights": [1.0, -1.0]}, "weights: expected finite, non-negative"),
        (([0.1, 0.2], 1), {"weights": [1.0, np.inf]}, "weights: expected finite"),
        (([0.1, 0.2], 1), {"weights": [0.0, 0.0]}, "weights: .*positive sum"),
    ],
)
def test_fit_rejects_bad_input_by_name(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fit(*arguments, **options)


@pytest.mark.parametrize(
    ("weights", "order", "message"),
    [
        (np.ones(16), 0, "order: expected an integer >= 1, got 0"),
        (np.ones(15), 3, r"weights: expected a vector of at least 16 nodes for order 3.*\(15,\)"),
        (np.ones((4, 4)), 1, r"weights: expected a vector.*\(4, 4\)"),
        (-np.ones(16), 1, "weights: expected finite, non-negative"),
        (np.zeros(16), 1, "weights: .*positive sum"),
        (np.full(16, np.nan), 1, "weights: expected finite"),
        ([], 1, "weights: "),
    ],
)
def test_fit_weights_rejects_bad_input_by_name(weights, order, message):
    with pytest.raises(ValueError, match=message):
        fit_weights(weights, order)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_gradient_and_hessian_are_those_of_automatic_differentiation(even, floor, x64):
    rng = np.random.default_rng(3)
    a = rng.normal(size=5) + (0.0 if even else 1j) * rng.normal(size=5)
    w = rng.uniform(size=64)
    if even:
        w = 0.5 * (w + np.roll(w[::-1], 1))
    w /= w.sum()
    x = -1.0 + 2.0 * np.arange(64) / 64

    def loss(parts):
        re, im = (parts, 0.0) if even else jnp.split(parts, 2)
        values = (re + 1j * im) @ np.exp(1j * np.pi * np.outer(np.arange(5), x))
        q = (1.0 - floor) * jnp.abs(values) ** 2 / jnp.sum(parts**2) + floor
        return -jnp.sum(w * jnp.log(q))

    point = likelihood.split(a / np.linalg.norm(a), even)
    found = likelihood.derivatives(w, likelihood.join(point, even), floor, even)
    for ours, derivative in zip(found, (loss, jax.grad(loss), jax.hessian(loss)), strict=True):
        np.testing.assert_allclose(ours, jax.jit(derivative)(point), rtol=0, atol=1e-11)


def test_newton_gives_up_at_a_root_on_a_data_point():
    a = np.array([1.0, 1.0, 0.0j]) / np.sqrt(2.0)  # A(-1) = 0, and -1 is a node
    with np.errstate(all="ignore"):
        kept, _, converged = likelihood.newton(np.full(8, 1 / 8), a, 0.0, False)
    assert not converged and np.all(np.isfinite(kept))


def test_newton_finishes_where_the_loss_is_flat_to_rounding():
    x = np.random.default_rng(0).normal(0.1, 0.25, 2000)
    grid = likelihood.bin_linearly(x, np.full(x.size, 1 / x.size), 1024)
    a, _ = likelihood.maximise_on_grid(grid, 5, 0.0, False, 1000)
    start = a + 1e-2 * np.random.default_rng(1).normal(size=(6, 2)) @ [1.0, 1j]
    b, steps, converged = likelihood.newton(grid, start / np.linalg.norm(start), 0.0, False)
    assert converged and steps <= 6
    losses = [likelihood.derivatives(grid, c, 0.0, False)[0] for c in (a, b)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-13)


def test_fits_in_several_threads_give_blas_its_threads_back():
    """Its limit is one of the process: the last fit that ends lifts it, not the first."""

    def threads():
        pools = threadpoolctl.threadpool_info()
        return {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}

    x = np.random.default_rng(0).normal(size=200)
    with threadpoolctl.threadpool_limits(2):
        with likelihood.ON_ONE_THREAD:
            with likelihood.ON_ONE_THREAD:
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {2}
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda order: fit(x, order, support="real", base="tanh"), [1, 2, 3]))
        assert threads() == {2}
