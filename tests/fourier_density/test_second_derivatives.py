"""Second derivatives of what is solved for: central differences of exact first ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourier_density import PeriodicDensity, RealLineDensity, transforms

OTHER = np.array([1.0, 0.2])


def circle(s):
    return PeriodicDensity(jnp.stack([jnp.ones_like(s), s]))


def line(s, base="tanh"):
    return RealLineDensity(jnp.stack([jnp.ones_like(s), s]), 0.1, 1.2, base=base)


def bumps(s):
    one = jnp.ones_like(s)
    return PeriodicDensity(jnp.stack([one, s, 0.3 * s**2 + 0.1j * one]))


SOLVED = {
    "entropy": lambda s: circle(s).entropy(),
    "divergence from": lambda s: circle(s).kl_divergence(PeriodicDensity(OTHER)),
    "divergence to": lambda s: PeriodicDensity(OTHER).kl_divergence(circle(s)),
    "convolution": lambda s: circle(s).convolve(PeriodicDensity(OTHER)).prob(0.3),
    "mode": lambda s: bumps(s).mode(),
    "quantile": lambda s: circle(s).quantile(0.3),
    "line": lambda s: line(s).quantile(0.3),
    "line's tail": lambda s: line(s).quantile(1e-5),
    "line over t": lambda s: line(s, "student_t").quantile(0.3),
    "t": lambda s: transforms.StudentT(3.0).quantile(0.6 * s),
    "mixture": lambda s: transforms.GaussianMixture(
        jnp.array([0.3, 0.7]), jnp.stack([s, 2 * s]), jnp.array([1.0, 0.4])
    ).quantile(jnp.asarray(0.2)),
}


@pytest.mark.sample("entropy", "convolution", "mode", "t")
@pytest.mark.parametrize("name", SOLVED)
def test_second_derivatives_are_those_of_the_first(name, x64):
    first = jax.jit(jax.grad(SOLVED[name]))
    expected = (first(0.5 + 1e-5) - first(0.5 - 1e-5)) / 2e-5
    second = jax.jit(jax.jacfwd(jax.grad(SOLVED[name])))
    np.testing.assert_allclose(second(0.5), expected, rtol=1e-6, atol=1e-8)


def test_the_curvature_of_an_entropy_in_closed_form(x64):
    """H = log 2 (1 + s^2) - 2 s^2 / (1 + s^2) for the coefficients 1 and s."""
    s = jnp.linspace(0.05, 0.9, 7)
    form = lambda s: jnp.log(2 * (1 + s**2)) - 2 * s**2 / (1 + s**2)  # noqa: E731
    for power in range(3):
        ours, expected = SOLVED["entropy"], form
        for _ in range(power):
            ours, expected = jax.grad(ours), jax.grad(expected)
        np.testing.assert_allclose(jax.vmap(ours)(s), jax.vmap(expected)(s), rtol=1e-9)


@pytest.mark.parametrize("df", [1.0, 3.0, 30.0])
def test_students_tails_go_as_far_as_the_numbers(df, precision):
    """Where the square of a point overflows: slopes are -(df + 1) / u, those of tails -df / u."""
    base, u = transforms.StudentT(df), jnp.asarray([1e19, 1e20, 1e25, 1e37], float)
    normal = RealLineDensity(np.array([1.0, 0.3]), 0.0, 1.0, base=base)
    for function, power in ((base.log_prob, df + 1), (normal.log_prob, df + 1)):
        np.testing.assert_allclose(jax.vmap(jax.grad(function))(u), -power / u, rtol=1e-5)
        np.testing.assert_allclose(jnp.diff(function(u)), -power * np.diff(np.log(u)), rtol=1e-5)
    for function in (base.log_cdf, normal.log_cdf):
        np.testing.assert_allclose(jnp.diff(function(-u)), -df * np.diff(np.log(u)), rtol=1e-5)
    assert normal.log_prob(jnp.inf) == normal.log_cdf(-jnp.inf) == -jnp.inf
