"""`RealLineDensity` against 400-digit arithmetic, out to forty scales."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from calls import call
from reference import fourier, real_line

from fourier_density import PeriodicDensity, RealLineDensity, transforms

A = fourier.random_coefficients(3, 5)
LOC, SCALE = 0.75, 1.5  # exact in single precision
TAILS = np.array([-60.0, -45.5, -12.0, -3.0, 0.0, 0.5, 2.5, 9.0, 30.0, 61.5])  # 40 scales
LOWER = np.concatenate([TAILS - 0.03125, TAILS - 1.0])
UPPER = np.concatenate([TAILS + 0.03125, TAILS + 1.0])
MIXTURE = transforms.GaussianMixture(
    np.array([0.25, 0.75]), np.array([-2.0, 1.0]), np.array([0.5, 2.0])
)
BASES = {name: name for name in transforms.NAMED} | {"mixture": MIXTURE}
RTOL = {"float32": 1e-5, "float64": 1e-11}
# JAX's log_ndtr is an asymptotic series below -20, good to 2e-11.
RTOL_NORMAL = {"float32": 1e-5, "float64": 1e-10}


def rtol_of(name, precision):
    return (RTOL_NORMAL if name in ("normal", "mixture") else RTOL)[precision]


def density(name="tanh", floor=0.0, a=A):
    return RealLineDensity(a, LOC, SCALE, BASES[name], floor)


@jax.jit
def tails(density, y, lower, upper):
    """All that has to be accurate in the tails, in one program."""
    return (
        density.log_prob(y),
        density.log_interval_prob(lower, upper),
        density.log_cdf(y),
        density.log_survival_function(y),
    )


@functools.cache
def exact_tails(name):
    """The same in 400 digits."""
    none = [None] * len(TAILS)
    return (
        real_line.log_prob(A, TAILS, LOC, SCALE, name),
        real_line.log_interval(A, LOWER, UPPER, LOC, SCALE, name),
        real_line.log_interval(A, none, TAILS, LOC, SCALE, name),
        real_line.log_interval(A, TAILS, none, LOC, SCALE, name),
    )


def check_tails(name, precision):
    got = tails(density(name), TAILS, LOWER, UPPER)
    rtol = rtol_of(name, precision)
    for value, expected in zip(got, exact_tails(name), strict=True):
        assert value.dtype == precision
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol)


@pytest.mark.sample(1)
def test_tails_have_relative_accuracy_out_to_forty_scales(precision):
    check_tails("tanh", precision)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", [name for name in BASES if name != "tanh"])
def test_tails_of_the_other_bases(name):
    """In single precision; `test_transforms` checks the bases in both."""
    check_tails(name, "float32")


@pytest.mark.slow
def test_gradients_are_finite_and_alive_out_to_forty_scales():
    def values(d, y):
        return d.log_prob(y), d.log_interval_prob(y - 0.25, y + 0.25)

    gradient = jax.jit(jax.vmap(jax.jacrev(values, (0, 1)), (None, 0)))
    for by_density, by_y in gradient(density(), jnp.asarray(TAILS, jnp.float32)):
        for leaf in (by_density.turned.re, by_density.loc, by_density.scale, by_y):
            assert jnp.all(jnp.isfinite(leaf))
        assert jnp.all(by_y != 0) and jnp.all(by_density.loc != 0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["student_t", "mixture"])
def test_slopes_of_other_bases_are_finite_and_alive(name):
    def slope(y):
        values = lambda y: (  # noqa: E731
            density(name).log_prob(y),
            density(name).log_interval_prob(y - 0.25, y + 0.25),
        )
        return jax.jvp(values, (y,), (jnp.ones_like(y),))[1]

    for by_y in jax.jit(slope)(jnp.asarray(TAILS, jnp.float32)):
        assert jnp.all(jnp.isfinite(by_y)) and jnp.all(by_y != 0)


def test_log_prob_and_its_gradient_near_a_root_at_the_ends():
    """A(+-1) = 0: p falls like the square of the distance, below the smallest float32."""
    a = np.array([1.0, 1.0])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(density(a=a).log_prob)))(
        jnp.asarray(TAILS, jnp.float32)
    )
    expected = real_line.log_prob(a, TAILS, LOC, SCALE)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert jnp.all(jnp.isfinite(slope)) and abs(slope[0] - 6 / SCALE) < 1e-4  # 2 + 4 a scale


def test_paper_formula_for_the_tanh_base(x64):
    y = np.linspace(-4, 5, 11)
    u = (y - LOC) / SCALE
    expected = fourier.density(A, np.tanh(u), 0.1) / np.cosh(u) ** 2 / SCALE
    np.testing.assert_allclose(call(density(floor=0.1), "prob", y), expected, rtol=1e-12)


def test_order_zero_is_the_base(x64):
    flat = RealLineDensity([1.0], LOC, SCALE, "student_t")
    y = np.array([-7.0, 0.3, 2.0])
    expected = real_line.log_prob([1.0], y, LOC, SCALE, "student_t")
    np.testing.assert_allclose(call(flat, "log_prob", y), expected, rtol=1e-13)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["tanh", "mixture"])
def test_quantile_inverts_the_cdf(name, x64):
    u = np.array([1e-6, 0.01, 0.3, 0.5, 0.8, 0.999])
    y = call(density(name, 0.05), "quantile", u)
    np.testing.assert_allclose(call(density(name, 0.05), "cdf", y), u, atol=1e-10, rtol=0)
    ends = call(density(name), "quantile", np.array([0.0, 1.0, -0.1, 1.1]))
    np.testing.assert_array_equal(ends[:2], [-np.inf, np.inf])
    assert jnp.all(jnp.isnan(ends[2:]))


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["periodic", "reflect"])
def test_small_levels_have_quantiles_of_their_own(boundary):
    a = A.real if boundary == "reflect" else A
    one = RealLineDensity(a, 0.4, 1.7, boundary=boundary)
    u = np.array([1e-30, 1e-12, 1e-8, 1e-5], np.float32)
    y = call(one, "quantile", u)
    assert np.all(np.diff(y) > 0)
    np.testing.assert_allclose(call(one, "log_cdf", y), np.log(u), rtol=2e-6)
    upper = call(one, "quantile", 1.0 - np.array([2e-7, 1e-5, 5e-4], np.float32))
    rest = 1.0 - (1.0 - np.array([2e-7, 1e-5, 5e-4], np.float32))
    np.testing.assert_allclose(call(one, "survival_function", upper), rest, rtol=1e-5)


@pytest.mark.slow
def test_gradient_of_the_quantile_equals_finite_differences(x64):
    step, at = 1e-5, np.array([LOC, SCALE, 0.3])

    @jax.jit
    def value(at):
        return RealLineDensity(A, at[0], at[1], "student_t", 0.1).quantile(at[2])

    exact = jax.jit(jax.grad(value))(at)
    for argument in range(3):
        shift = step * np.eye(3)[argument]
        numeric = (value(at + shift) - value(at - shift)) / (2 * step)
        np.testing.assert_allclose(exact[argument], numeric, atol=1e-6, rtol=0)


def test_samples_have_the_distribution():
    draw = jax.jit(lambda d: d.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(4000,)))
    y, log_prob = draw(density("normal"))
    assert y.shape == log_prob.shape == (4000,)
    u = np.sort(np.asarray(call(density("normal"), "cdf", y)))
    distance = np.max(np.abs(u - (np.arange(4000) + 0.5) / 4000))
    assert distance < 1.63 / np.sqrt(4000)  # Kolmogorov's 1 % point


def test_batches_broadcast_and_survive_transformations(x64):
    batch = RealLineDensity(fourier.random_coefficients(1, 3, (2, 1)), [0.0, 1.0, 2.0], 0.5)
    assert batch.batch_shape == (2, 3) and batch.order == 3
    y = np.linspace(-1, 1, 5)[:, None, None]
    values = call(batch, "log_prob", y)
    assert values.shape == (5, 2, 3)
    one = RealLineDensity(fourier.random_coefficients(1, 3, (2, 1))[1, 0], 2.0, 0.5)
    np.testing.assert_allclose(values[:, 1, 2], call(one, "log_prob", y[:, 0, 0]), rtol=1e-12)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, one)
    out = jax.jit(jax.vmap(lambda d: d.log_prob(0.3)))(stacked)
    np.testing.assert_allclose(out, [one.log_prob(0.3)] * 2, rtol=1e-12)
    assert "order=3" in repr(batch)
    holes = jax.tree.map(lambda _: None, one)
    assert "RealLineDensity" in repr(holes)
    _, scanned = jax.lax.scan(lambda d, y: (d, d.cdf(y)), one, jnp.asarray(y[:, 0, 0]))
    np.testing.assert_allclose(scanned, call(one, "cdf", y[:, 0, 0]), rtol=1e-12)


def test_the_circle_density_comes_back(x64):
    x = np.linspace(-1, 1, 7)
    np.testing.assert_allclose(
        density(floor=0.1).circle.prob(x), PeriodicDensity(A, 0.1).prob(x), atol=1e-13, rtol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": -1.0}, "scale: expected positive values that float32 holds, got -1.0"),
        ({"scale": 0.0}, "scale: expected positive values"),
        ({"scale": 1e-40}, "scale: expected positive values that float32 holds, got 1e-40"),
        ({"loc": 1e39}, "loc: expected finite values"),
        ({"floor": 1.0 - 1e-9}, "floor: expected a weight"),
        ({"scale": np.inf}, "scale: expected positive values"),
        ({"loc": np.nan}, "loc: expected finite values"),
        ({"loc": np.zeros(2), "scale": np.ones(3)}, r"scale: expected a shape that broadcasts"),
        ({"floor": np.zeros(2), "scale": np.ones(3)}, r"scale: expected a shape that broadcasts"),
        ({"base": "tan"}, "base: expected one of tanh, normal, .*got 'tan'"),
        ({"coefficients": [0.0, 0.0]}, "coefficients: expected a non-zero"),
        ({"floor": 1.0}, "floor: expected a weight"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    good = {"coefficients": [1.0, 0.5], "loc": 0.0, "scale": 1.0}
    with pytest.raises(ValueError, match=message):
        RealLineDensity(**{**good, **arguments})


def test_a_traced_negative_scale_gives_nan():
    value = jax.jit(lambda scale: RealLineDensity([1.0], 0.0, scale).log_prob(0.3))(-1.0)
    assert jnp.isnan(value)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["normal", "tanh"])
def test_expectations_equal_quadrature_over_the_line(name, x64):
    """Against panels of Gauss-Legendre quadrature in y, narrow enough for the dips of log q."""

    @jax.jit
    def summary(d):
        return d.mean(), d.variance(), d.entropy(), d.characteristic_function(0.7)

    base = {"normal": scipy.stats.norm(), "tanh": scipy.stats.logistic(scale=0.5)}[name]
    points, weights = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(LOC - 20 * SCALE, LOC + 20 * SCALE, 8001)
    half = 0.5 * (edges[1] - edges[0])
    y, w = (edges[:-1, None] + half * (1 + points)).ravel(), np.tile(half * weights, 8000)
    u = (y - LOC) / SCALE
    q = 2.0 * fourier.density(A, 2.0 * base.cdf(u) - 1.0) * base.pdf(u) / SCALE
    mean = np.sum(w * q * y)
    expected = (
        mean,
        np.sum(w * q * (y - mean) ** 2),
        -np.sum(w * q * np.log(np.maximum(q, 1e-300))),
        np.sum(w * q * np.exp(0.7j * y)),
    )
    np.testing.assert_allclose(summary(density(name)), expected, atol=1e-9, rtol=0)


@pytest.mark.slow
def test_moments_that_do_not_exist_are_nan(x64):
    cauchy = RealLineDensity([1.0], 0.0, 1.0, transforms.StudentT(1.0))
    assert jnp.isnan(call(cauchy, "variance")) and jnp.isnan(call(cauchy, "mean"))
    heavy = RealLineDensity([1.0], 0.5, 2.0, "student_t")
    np.testing.assert_allclose(call(heavy, "variance"), 3.0 * 4.0, rtol=1e-8)


def test_divergence_between_bases_and_to_itself(x64):
    flat = RealLineDensity([1.0], 0.0, 1.0, "normal")
    wide = RealLineDensity([1.0], 1.0, 2.0, "normal")
    value = call(flat, "kl_divergence", wide)
    np.testing.assert_allclose(value, np.log(2.0) + 2.0 / 8.0 - 0.5, atol=1e-12)
    assert call(density(), "kl_divergence", density()) == 0.0
    value = call(density(), "kl_divergence", RealLineDensity([1.0], LOC, SCALE))
    expected = call(density().circle, "kl_divergence", PeriodicDensity([1.0]))
    np.testing.assert_allclose(value, expected, atol=1e-9)


@pytest.mark.slow
def test_modes_are_the_maxima_of_a_fine_grid(x64):
    modes = np.asarray(call(density("normal", 0.1), "modes"))
    y = np.linspace(LOC - 4 * SCALE, LOC + 4 * SCALE, 2**15)
    p = np.asarray(call(density("normal", 0.1), "prob", y))
    peaks = y[1:-1][(p[1:-1] > p[:-2]) & (p[1:-1] >= p[2:])]
    np.testing.assert_allclose(modes[~np.isnan(modes)], peaks, atol=1e-3)
    mode = call(density("normal", 0.1), "mode")
    np.testing.assert_allclose(mode, y[np.argmax(p)], atol=1e-3)


@pytest.mark.parametrize("base", ["normal", "student_t"])
def test_a_stretch_of_density_0_has_no_modes(base):
    """Where cos^24 is 0, rounding would make a dozen."""
    binomials = np.array([math.comb(12, k) for k in range(13)]) / 2**12
    narrow = RealLineDensity(binomials, LOC, SCALE, base)
    modes = np.asarray(call(narrow, "modes"))
    np.testing.assert_allclose(modes[np.isfinite(modes)], [LOC], atol=1e-4)
    np.testing.assert_allclose(call(narrow, "mode"), LOC, atol=1e-4)


def test_the_mode_of_many_maxima_is_the_highest():
    """Of the base: an order of 0 has room for one mode."""
    base = transforms.GaussianMixture(
        *map(np.array, ([0.1, 0.2, 0.7], [-5.0, 0.0, 4.0], [1.0] * 3))
    )
    mixture = RealLineDensity(np.ones(1), 0.0, 1.0, base=base)
    assert mixture.modes().shape == (1,)
    assert mixture.mode() == pytest.approx(4.0, abs=1e-3)


def test_many_samples_stay_on_the_line_where_the_ends_have_much_mass():
    rough = RealLineDensity(np.ones(65) * (-1.0) ** np.arange(65), 0.0, 1.0, base="normal")
    samples = jax.jit(lambda key: rough.sample(seed=key, sample_shape=(2**20,)))
    assert all(np.isfinite(samples(jax.random.key(seed))).all() for seed in range(6))


def test_tails_of_a_density_far_from_the_middle_of_its_base():
    """Nearly all mass above loc: the distribution function is tiny on both sides of it."""
    k = np.arange(65)
    a = scipy.special.comb(64, k) * np.exp(-0.5j * np.pi * k)
    density = RealLineDensity(a, 0.0, 1.0)
    y = np.linspace(0.2, 0.6, 5).astype(np.float32)

    def mass(y):
        z = np.linspace(-1.0, np.tanh(np.float64(y)), 20001)
        p = np.abs(np.polyval(a[::-1] / np.linalg.norm(a), np.exp(1j * np.pi * z))) ** 2 / 2
        return np.log(scipy.integrate.simpson(p, x=z))

    got = density.log_cdf(y)
    np.testing.assert_allclose(got, [mass(v) for v in y], rtol=1e-4)
    mirrored = RealLineDensity(a.conj(), 0.0, 1.0)
    np.testing.assert_allclose(mirrored.log_survival_function(-y), got, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tanh", "normal", "laplace", "student_t"])
def test_gradients_of_half_infinite_bins_are_those_of_the_distribution_function(base):
    def slopes(function):
        def value(loc, scale, y):
            return function(RealLineDensity([1.0, 0.5, 0.2j], loc, scale, base), y)

        return np.array(jax.jit(jax.grad(value, (0, 1, 2)))(0.1, 0.7, 0.3))

    for bin_, tail in (
        (lambda d, y: d.log_interval_prob(-jnp.inf, y), lambda d, y: d.log_cdf(y)),
        (lambda d, y: d.log_interval_prob(y, jnp.inf), lambda d, y: d.log_survival_function(y)),
    ):
        got = slopes(bin_)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, slopes(tail), rtol=2e-4, atol=1e-6)


def test_spread_and_entropy_do_not_depend_on_the_place():
    near, far = (RealLineDensity([1.0, 0.5], loc, 1.0, "normal") for loc in (0.0, 1e8))
    np.testing.assert_allclose(far.variance(), near.variance(), rtol=1e-6)
    np.testing.assert_allclose(far.entropy(), near.entropy(), rtol=1e-6)
