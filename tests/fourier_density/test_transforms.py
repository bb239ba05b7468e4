"""Base distributions against mpmath, in both tails and both precisions."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from reference import real_line

from fourier_density import transforms

U = np.array([-40.0, -6.5, -1.25, -0.5, 0.0, 0.25, 1.0, 3.0, 40.0])
MIXTURE = transforms.GaussianMixture(
    np.array([0.25, 0.75]), np.array([-2.0, 1.0]), np.array([0.5, 2.0])
)
BASES = {**transforms.NAMED, "mixture": MIXTURE}
# JAX's log_ndtr is an asymptotic series below -20, good to 2e-11.
RTOL = {"float32": 2e-6, "float64": 1e-10}


@jax.jit
def functions(base, u):
    return base.log_prob(u), base.log_cdf(u), base.log_survival_function(u)


def check(base, pdf, cdf, precision, rtol):
    got = functions(base, jnp.asarray(U, precision))
    with mpmath.workdps(400):
        points = [mpmath.mpf(float(u)) for u in U]
        expected = (
            [float(mpmath.log(pdf(u))) for u in points],
            [float(mpmath.log(cdf(u))) for u in points],
            [float(mpmath.log(1 - cdf(u))) for u in points],
        )
    for value, exact in zip(got, expected, strict=True):
        assert value.dtype == precision
        np.testing.assert_allclose(value, exact, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", BASES)
def test_logarithms_have_relative_accuracy_in_both_tails(name, precision):
    check(BASES[name], *real_line.base(name), precision, RTOL[precision])


@pytest.mark.parametrize("df", [1.0, 4.5, 8.0, 25.0])
def test_students_t_of_any_degrees_of_freedom(df, precision):
    def pdf(u):
        half = mpmath.mpf(df) / 2
        scale = mpmath.gamma(half + 0.5) / mpmath.gamma(half) / mpmath.sqrt(mpmath.pi * df)
        return scale * (1 + u**2 / df) ** (-half - mpmath.mpf(1) / 2)

    def cdf(u):
        tail = mpmath.betainc(mpmath.mpf(df) / 2, 0.5, 0, df / (df + u**2), regularized=True) / 2
        return tail if u < 0 else 1 - tail

    check(transforms.StudentT(df), pdf, cdf, precision, RTOL[precision])


@pytest.mark.parametrize("df", [8.1, 60.0, 3e3, 1e6, 1e12])
def test_students_t_is_as_exact_for_many_degrees_of_freedom(df, precision):
    """Against the incomplete beta function in 30 digits, or integrals of the density."""
    half, u = mpmath.mpf(df) / 2, np.array([-0.01, -0.7, -1.01, -2.0, -3.5, -7.0]).astype(precision)
    with mpmath.workdps(30):
        constant = mpmath.loggamma(half + 0.5) - mpmath.loggamma(half)
        constant -= mpmath.log(mpmath.pi * df) / 2

        def form(x):
            return mpmath.exp(constant - (half + 0.5) * mpmath.log1p(x * x / df))

        def below(x):
            if df < 1e3:
                return mpmath.betainc(half, 0.5, 0, df / (df + x * x), regularized=True) / 2
            return mpmath.quad(form, list(x - np.arange(40.0, -1.0, -2.0)))

        points = [mpmath.mpf(float(x)) for x in u]
        exact = [[float(mpmath.log(form(x))) for x in points]]
        exact += [[float(mpmath.log(below(x))) for x in points]]
        exact += [[float(mpmath.log1p(-below(x))) for x in points]]
    base = transforms.StudentT(df)
    rtol = RTOL[precision] if df > 20 or precision == "float32" else 1e-10
    for value, expected in zip(functions(base, u), exact, strict=True):
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol)
    level = jnp.exp(base.log_cdf(jnp.asarray(u)))
    np.testing.assert_allclose(base.quantile(level), u, rtol=max(20 * rtol, 1e-9), atol=1e-7)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", BASES)
def test_quantiles_invert_the_distribution_function_from_both_sides(name, x64):
    # Many levels: far from a root slopes are rounding errors, and some would mislead Newton.
    base, p = BASES[name], np.exp(-np.linspace(np.log(2.0), 90.0, 1000))
    lower = jax.jit(lambda b, p: b.quantile(p))(base, p)
    np.testing.assert_allclose(functions(base, lower)[1], np.log(p), rtol=1e-10)
    upper = -jax.jit(lambda b, p: transforms.Mirrored(b).quantile(p))(base, p)
    np.testing.assert_allclose(functions(base, upper)[2], np.log(p), rtol=1e-10)


def test_names_and_objects_are_checked():
    assert transforms.named("tanh") == transforms.Tanh()
    assert transforms.named(MIXTURE) is MIXTURE
    with pytest.raises(ValueError, match=r"base: expected one of tanh, normal, .*got 'tan'"):
        transforms.named("tan")
    with pytest.raises(ValueError, match=r"base: .*an object with the functions.*got 3"):
        transforms.named(3)
    for df in (-1.0, 0.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="df: expected a positive number, got"):
            transforms.StudentT(df)
    for parts, message in (
        (([1.0], [0.0, 1.0], [1.0, 1.0]), "weights, means, scales: expected"),
        ((0.5, 0.0, 1.0), "weights, means, scales: expected"),
        (([0.5, 0.5], [0.0, 1.0], [1.0, -1.0]), "scales: expected positive numbers"),
        (([-0.5, 1.5], [0.0, 1.0], [1.0, 1.0]), "weights: expected positive numbers"),
        (([0.5, 0.5], [0.0, np.nan], [1.0, 1.0]), "means: expected finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            transforms.GaussianMixture(*parts)
