"""Interval probabilities, the characteristic function and the mode."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import call
from reference import fourier

from fourier_density import PeriodicDensity, angles

RTOL = {"float32": 1e-5, "float64": 1e-12}
CASES = {
    "random": fourier.random_coefficients(2, 13),
    "empty at 1": np.convolve([1.0, 1.0], fourier.random_coefficients(2, 4)),  # A(1) = 0
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [1e-5, 0.01, 0.3, 1.7])
def test_log_mass_has_relative_accuracy(name, width, precision):
    a, lower = CASES[name], np.array([-0.9, -0.35, 0.2, 0.9, 0.97])
    lower = lower.astype(precision)
    upper = (lower + np.asarray(width, precision)).astype(precision)
    expected = [
        float(np.log(float(fourier.interval(a, s, e)))) for s, e in zip(lower, upper, strict=True)
    ]
    value = call(PeriodicDensity(a), "log_interval_prob", lower, upper)
    assert value.dtype == precision
    # An interval of width w around x has ends good to eps |x|: a relative error of eps / w.
    rtol = RTOL[precision] * (1.0 if width > 1e-3 or precision == "float64" else 4.0)
    np.testing.assert_allclose(value, expected, atol=rtol, rtol=rtol)


def test_interval_prob_adds_up_to_one(x64):
    edges = np.linspace(-1, 1, 12)
    density = PeriodicDensity(CASES["random"], 0.1)
    bins = call(density, "interval_prob", edges[:-1], edges[1:])
    np.testing.assert_allclose(np.sum(bins), 1.0, atol=1e-13, rtol=0)
    np.testing.assert_allclose(np.cumsum(bins), call(density, "cdf", edges[1:]), atol=1e-13)


def test_intervals_may_cross_the_end_and_not_run_backwards(x64):
    density = PeriodicDensity(CASES["random"])
    across = call(density, "interval_prob", 0.8, 1.3)
    parts = call(density, "interval_prob", np.array([0.8, -1.0]), np.array([1.0, -0.7]))
    np.testing.assert_allclose(across, np.sum(parts), atol=1e-13, rtol=0)
    assert jnp.isnan(call(density, "interval_prob", 0.3, 0.2))
    assert call(density, "interval_prob", 0.3, 0.3) == 0.0


def test_gradient_of_the_log_mass_equals_finite_differences(x64):
    a, step = fourier.random_coefficients(3, 4), 1e-5
    direction = fourier.random_coefficients(4, 4)
    for lower, upper in ((-0.3, 0.5), (0.2, 0.2 + 1e-3)):
        value = lambda d: d.log_interval_prob(lower, upper)  # noqa: B023, E731
        gradient = jax.jit(jax.grad(value))(PeriodicDensity(a))
        exact = jnp.sum(gradient.re * direction.real + gradient.im * direction.imag)
        ends = [
            float(np.log(float(fourier.interval(a + sign * step * direction, lower, upper))))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(exact, (ends[0] - ends[1]) / (2 * step), atol=1e-7, rtol=0)
    slope = jax.jit(jax.grad(lambda x: PeriodicDensity(a).log_interval_prob(-0.3, x)))(0.5)
    expected = fourier.density(a, 0.5) / float(fourier.interval(a, -0.3, 0.5))
    np.testing.assert_allclose(slope, expected, atol=1e-11, rtol=0)


def test_log_cdf_keeps_its_digits_in_the_lower_tail(precision):
    a, x = CASES["empty at 1"], np.array([-0.99, -0.9, -0.5], precision)  # P ~ (x + 1)^3
    expected = [float(np.log(float(fourier.interval(a, -1.0, point)))) for point in x]
    np.testing.assert_allclose(
        call(PeriodicDensity(a), "log_cdf", x), expected, rtol=RTOL[precision], atol=0
    )


def test_characteristic_function_equals_quadrature(precision):
    a, t = fourier.random_coefficients(2, 5), np.array([-7.3, 0.0, 0.4, 2 * np.pi, 11.0])
    value = call(PeriodicDensity(a, 0.2), "characteristic_function", t)
    expected = [fourier.expectation(lambda x, t=t: np.exp(1j * t * x), a, 0.2) for t in t]
    tolerance = {"float32": 5e-6, "float64": 1e-13}[precision]
    np.testing.assert_allclose(value, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("order", [1, 5, 13])
def test_mode_is_where_a_fine_grid_has_its_maximum(order, x64):
    a = fourier.random_coefficients(order, order)
    grid = np.linspace(-1, 1, 2**18 + 1)
    x = float(call(PeriodicDensity(a), "mode"))
    assert abs(x - grid[np.argmax(fourier.density(a, grid))]) < 1e-5
    assert abs(fourier.density_slope(a, x)) < 1e-9


def test_modes_are_all_the_maxima_in_order_and_differentiable(x64):
    a = fourier.random_coefficients(4, 5)
    modes = np.asarray(call(PeriodicDensity(a), "modes"))
    assert modes.shape == (5,)
    grid = -1.0 + 2.0 * np.arange(2**16) / 2**16
    p = fourier.density(a, grid)
    peaks = grid[(p > np.roll(p, 1)) & (p >= np.roll(p, -1))]
    np.testing.assert_allclose(modes[~np.isnan(modes)], peaks, atol=1e-4)
    assert np.all(np.isnan(call(PeriodicDensity([1.0]), "modes")))
    # Turning the circle by s moves the mode by s.
    move = jax.jit(jax.grad(lambda s: PeriodicDensity(a).rotate(s).mode()))
    np.testing.assert_allclose(move(0.01), 1.0, atol=1e-6)


def test_modes_in_single_precision_are_those_of_the_exact_density():
    """Of large and small waves: none is lost, and rounding makes none."""
    order, batch = 12, 60
    a = fourier.random_coefficients(8, order, (batch,)).astype(np.complex64)
    a[:20] *= np.exp(-0.3 * np.arange(order + 1), dtype=np.float32)
    a[20:40, 1:] *= np.logspace(-8, 0, 20, dtype=np.float32)[:, None]
    modes = np.asarray(call(PeriodicDensity(a), "modes"))
    highest = np.asarray(call(PeriodicDensity(a), "mode"))
    grid = -1.0 + 2.0 * np.arange(2**14) / 2**14
    waves = np.exp(1j * np.pi * np.outer(np.arange(order + 1), grid))
    for one, found, mode in zip(a.astype(complex), modes, highest, strict=True):
        value, change = one @ waves, (1j * np.pi * np.arange(order + 1) * one) @ waves
        slope = (value.conj() * change).real
        peaks = grid[(slope > 0) & (np.roll(slope, -1) <= 0)]
        np.testing.assert_allclose(found[: len(peaks)], peaks, atol=5e-4)
        assert np.isnan(found[len(peaks) :]).all()
        p = np.abs(value) ** 2
        assert abs(mode - grid[np.argmax(p)]) < 5e-4


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_a_stretch_of_density_0_has_no_modes(place):
    """The density cos^24 has one; rounding, where it is 0, would make a dozen others."""
    binomials = np.array([math.comb(12, k) for k in range(13)]) / 2**12
    density = PeriodicDensity(binomials).rotate(place)
    modes = np.asarray(call(density, "modes"))
    assert np.isfinite(modes).sum() == 1
    assert angles.wrap(modes[0] - place) == pytest.approx(0.0, abs=1e-5)
    assert call(density, "mode") == modes[0]


def test_plot_draws_the_density_and_refuses_a_batch():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert PeriodicDensity([1.0, 0.5]).plot(axes, color="k") is axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(y, fourier.density([1.0, 0.5], x), atol=1e-5)
    with pytest.raises(ValueError, match="plot: expected a single density"):
        PeriodicDensity(np.ones((2, 3))).plot(axes)
