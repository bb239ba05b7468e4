"""A million random densities and points: exact, never negative, whatever the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourier_density import PeriodicDensity

POINTS = 350
BATCH = 1000  # densities of each order: 1000 x 350 values


def draw(order, scale):
    """Coefficients of many shapes: flat, decaying, and some with roots on the circle."""
    rng = np.random.default_rng(order)
    a = rng.normal(size=(BATCH, order + 1)) + 1j * rng.normal(size=(BATCH, order + 1))
    a *= np.exp(-rng.uniform(0.0, 1.0, (BATCH, 1)) * np.arange(order + 1))
    root = np.exp(1j * rng.uniform(0.0, 2.0 * np.pi, 100))
    a[:100, 1:] -= root[:, None] * a[:100, :-1].copy()  # times (1 - z root), but for the end
    x = rng.uniform(-1.0, 1.0, (POINTS, BATCH))
    return scale * a, x


def direct(a, x):
    """Density and distribution function by Horner's rule and by Fourier sums, long doubles."""
    order = a.shape[1] - 1
    turn = np.longdouble(np.pi) + np.longdouble(1.2246467991473532e-16)  # pi to 19 digits
    angle = turn * x.astype(np.longdouble)
    z = np.cos(angle) + 1j * np.sin(angle)
    wide = (a / np.abs(a).max(axis=1, keepdims=True)).astype(np.clongdouble)
    total = np.sum(np.abs(wide) ** 2, axis=1)
    A = np.zeros(x.shape, np.clongdouble)
    for k in range(order, -1, -1):
        A = A * z + wide[:, k]
    cdf, power = 0.5 * (x + 1.0).astype(np.longdouble), np.ones_like(z)
    for n in range(1, order + 1):
        c = np.sum(wide[:, n:] * wide[:, : order + 1 - n].conj(), axis=1) / total
        power = power * z
        # The integral from -1 of Re(c exp(i pi n x)).
        cdf = cdf + np.imag(c * (power - (-1.0) ** n)) / (n * turn)
    return np.abs(A) ** 2 / (2.0 * total), cdf


@pytest.mark.sample(1)
@pytest.mark.parametrize("order", [1, 8, 64])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_a_million_values(order, scale, precision):
    a, x = draw(order, scale)
    if precision == "float32":
        # The densities and points as they are seen: rounded.
        a, x = a.astype(np.complex64), x.astype(np.float32)
    evaluate = jax.jit(
        lambda a, x: [getattr(PeriodicDensity(a), f)(x) for f in ("prob", "log_prob", "cdf")]
    )
    p, log_p, cdf = map(np.asarray, evaluate(jnp.asarray(a), jnp.asarray(x)))
    assert p.shape == x.shape and p.dtype == precision
    assert np.isfinite(p).all() and (p >= 0).all()
    assert not np.isnan(log_p).any() and np.isfinite(log_p[p > 0]).all()
    assert (cdf >= -1e-6).all() and (cdf <= 1 + 1e-6).all()
    exact, exact_cdf = direct(a, x)
    largest = exact.max(axis=0)
    seen = exact > 1e-6 * largest
    if precision == "float64":
        assert np.max(np.abs(p - exact) / largest) < 1e-13
        assert np.max(np.abs(cdf - exact_cdf)) < 1e-13
    assert np.max(np.abs(log_p - np.log(exact))[seen]) < (1e-3 if precision == "float32" else 1e-9)
