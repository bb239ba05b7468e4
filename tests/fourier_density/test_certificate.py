"""The bound on what a fit lacks: proven by other fits, and small where they show that it may be."""

import numpy as np
import pytest

from experiments.fourier_density.targets import TARGETS
from fourier_density import certificate, fit_weights, likelihood

NODES = 2**12
X = -1.0 + 2.0 * np.arange(NODES) / NODES


def masses(name):
    """Of the cells around the nodes."""
    exact, half = TARGETS[name], 1.0 / NODES
    mass = exact.cdf(X + half) - exact.cdf(X - half)
    mass[0] += exact.cdf(np.array(1.0)) - exact.cdf(np.array(1.0 - half))
    return mass / mass.sum()


def coefficients(fit):
    a = np.asarray(fit.density.coefficients, complex)
    return a / np.linalg.norm(a)


def explicit(w, g, order):
    v = np.exp(-1j * np.pi * np.outer(np.arange(order + 1), X))
    return np.linalg.eigvalsh((v * (w / g)) @ v.conj().T)[-1]


def test_a_fit_beside_nothing_is_certified_whatever_the_optimiser_left_there():
    """Between its bumps this density is next to zero: eigenvalues far above 1 win nothing there."""
    w, rng = masses("tut10"), np.random.default_rng(0)
    best = fit_weights(w, 24)
    a = coefficients(best) + 1e-4 * (rng.normal(size=25) + 1j * rng.normal(size=25))
    a, _, _ = likelihood.newton(w, a / np.linalg.norm(a), 0.0, False)
    found = likelihood.assess(a, 0, X, w, 0.0)
    plain = np.log(explicit(w, np.abs(certificate.polynomial(a, X)) ** 2, 24))
    assert found.certificate < 1e-5 and plain > 10 * found.certificate


@pytest.mark.parametrize("order", [4, 16, 32, 48])
def test_optima_of_densities_are_certified_at_every_order(order):
    assert 0.0 <= fit_weights(masses("tut10"), order).certificate < 1e-5


@pytest.mark.parametrize(("floor", "even"), [(0.0, False), (0.1, False), (0.0, True), (0.2, True)])
@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.3])
def test_no_fit_is_better_than_the_bound_allows(floor, even, size):
    w = masses("square")
    a, steps = likelihood.maximise_on_grid(w, 8, floor, even, 1000)
    best = likelihood.assess(a, steps, X, w, floor, even)
    rng = np.random.default_rng(1)
    noise = rng.normal(size=9) + (0.0 if even else 1j) * rng.normal(size=9)
    b = a + size * noise
    worse = likelihood.assess(b / np.linalg.norm(b), 0, X, w, floor, even)
    assert best.certificate < 1e-9
    q = np.abs(certificate.polynomial(worse.a, X)) ** 2
    q = (1.0 - floor) * q + floor
    matrix = certificate.moments(X, w / q, 8, even)
    plain = (1.0 - floor) * np.linalg.eigvalsh(matrix)[-1] + floor * np.sum(w / q)
    assert worse.nll - best.nll <= worse.certificate + 1e-12
    assert worse.certificate <= np.log(plain) + 1e-12


def test_the_moments_are_a_sum_of_squares_and_the_identity_is_no_trouble():
    w = masses("square")
    g = 1.0 + 0.5 * np.cos(np.pi * X)
    matrix = certificate.moments(X, w / g, 6, False)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix)[-1], explicit(w, g, 6), rtol=1e-12)
    even = np.full(NODES, 1.0 / NODES)
    assert certificate.bound(X, even, np.ones(NODES), 32, 0.0, False) < 1e-14


def test_a_root_on_a_point_proves_nothing():
    w = np.array([0.5, 0.5])
    x = np.array([0.0, 1.0])
    q = np.abs(certificate.polynomial(np.array([1.0, 1.0]) / np.sqrt(2.0), x)) ** 2
    assert certificate.bound(x, w, np.where(q < 1e-30, 0.0, q), 1, 0.0, False) == np.inf
