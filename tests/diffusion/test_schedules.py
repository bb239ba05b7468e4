"""Schedules against 40 digits, their inverses and densities, at both ends, in both precisions."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import diffusion as reference
from scipy.integrate import quad

from diffusion import schedules

TIMES = np.array([0.0, 1e-6, 1e-3, 0.2, 0.37, 0.5, 0.63, 0.8, 0.999, 1 - 1e-6, 1.0])


def interpolated(t):
    low, high = (reference.cosine(t) + 2 * np.log(base / 256) for base in (32, 256))
    return (1 - t) * low + t * high


CASES = {
    "cosine": (schedules.cosine(), reference.cosine),
    "wide": (
        schedules.cosine(-20.0, 20.0),
        functools.partial(reference.cosine, low=-20.0, high=20.0),
    ),
    "lopsided": (
        schedules.cosine(-3.0, 18.0),
        functools.partial(reference.cosine, low=-3.0, high=18.0),
    ),
    "above": (schedules.cosine(2.0, 9.0), functools.partial(reference.cosine, low=2.0, high=9.0)),
    "shifted": (
        schedules.shifted(schedules.cosine(), 64, 256),
        lambda t: reference.cosine(t) - 4 * np.log(2),
    ),
    "interpolated": (schedules.interpolated(schedules.cosine(), 32, 256, 256), interpolated),
    "linear": (schedules.linear(), lambda t: 13.3 - 18.3 * t),
    "vp_sde": (schedules.vp_sde(), reference.vp_sde),
    "edm": (schedules.edm(), reference.log_normal),
    "learned": (schedules.learned(jax.random.key(0)), None),
    "table": (schedules.linear_beta(50), None),
}


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1]])
def test_log_snr_is_the_formula(name, precision):
    schedule, exact = CASES[name]
    # Rounding of t itself moves the value by |dlambda/dt| eps t.
    values, given = np.asarray(schedule(jnp.asarray(TIMES))), np.asarray(jnp.asarray(TIMES), float)
    expected = np.array([exact(t) for t in given])
    bound = 1e-12 if precision == "float64" else 2e-5
    np.testing.assert_allclose(values, expected, rtol=bound, atol=bound)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_inverse_and_slope(name, x64):
    schedule, _ = CASES[name]
    times = jnp.asarray(TIMES)
    logsnr = schedule(times)
    assert np.all(np.diff(logsnr) < 0)
    np.testing.assert_allclose(jax.jit(schedule.inverse)(logsnr), times, atol=1e-12)
    ends = schedule.ends
    np.testing.assert_allclose(
        [float(ends[0]), float(ends[1])], [logsnr[-1], logsnr[0]], rtol=1e-12
    )
    inner = jnp.asarray(TIMES[2:-2])
    step = 1e-6
    if name != "table":
        slope = (schedule(inner + step) - schedule(inner - step)) / (2 * step)
        np.testing.assert_allclose(schedule.slope(inner), slope, rtol=3e-6)
        back = jax.vmap(jax.grad(schedule.inverse))(schedule(inner))
        np.testing.assert_allclose(back, 1 / schedule.slope(inner), rtol=1e-9)


@pytest.mark.parametrize("name", ["cosine", "interpolated", "learned"])
def test_the_curvature_of_an_inverse(name, x64):
    """By formula, bisected and with weights: t'' = -lambda'' / lambda'^3."""
    schedule, times = CASES[name][0], jnp.asarray(TIMES[2:-2])
    bend = jax.vmap(jax.grad(schedule.slope))(times)
    found = jax.vmap(jax.grad(jax.grad(schedule.inverse)))(schedule(times))
    assert np.any(bend != 0)
    np.testing.assert_allclose(found, -bend / schedule.slope(times) ** 3, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_density_is_that_of_uniform_times(name, x64):
    schedule, _ = CASES[name]
    low, high = map(float, schedule.ends)
    density = jax.jit(schedule.density)
    for t in (0.03, 0.5, 0.9):  # mass above a log-SNR is the time at which it is reached
        place = float(schedule(t))
        nodes = None if name != "table" else 400
        if nodes is None:
            mass = quad(lambda value: float(density(value)), place, high, epsabs=1e-10, limit=200)[
                0
            ]
        else:
            cells = np.linspace(place, high, 200_001)
            mass = float(np.mean(density(0.5 * (cells[1:] + cells[:-1])))) * (high - place)
        assert mass == pytest.approx(t, abs=1e-7 if nodes is None else 1e-4)
    assert float(density(low - 1.0)) == 0.0 == float(density(high + 1.0))


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_at_the_ends(name, precision):
    schedule, _ = CASES[name]
    times = jnp.array([0.0, 1e-6, 1 - 1e-6, 1.0])
    slopes = jax.vmap(jax.grad(lambda t: schedule(t)))(times)
    assert np.all(np.isfinite(slopes)) and np.all(slopes < 0)
    low, high = schedule.ends
    ends = jnp.array([float(low), float(high)])
    assert np.all(np.isfinite(jax.vmap(jax.grad(schedule.inverse))(ends)))


def test_tables_are_products_with_many_digits(x64):
    for kind, make in (
        ("linear", schedules.linear_beta),
        ("scaled", schedules.scaled_linear_beta),
        ("nichol", schedules.nichol_cosine),
    ):
        expected = reference.table(kind, 1000)
        made = make(1000)
        np.testing.assert_allclose(made.logsnrs, expected, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(made.alphas_bar, 1 / (1 + np.exp(-expected)), rtol=1e-12)
        np.testing.assert_allclose(made(jnp.linspace(0, 1, 1000)), expected, rtol=1e-10)
        between = made(0.5 / 999)
        np.testing.assert_allclose(between, expected[:2].mean(), rtol=1e-10)
    assert schedules.linear_beta(10) is schedules.linear_beta(
        10
    )  # found again by compiled programs


def test_any_variances_make_a_table(x64):
    betas = np.random.default_rng(0).uniform(1e-4, 0.3, 50)
    kept = np.cumprod(1.0 - betas)
    made = schedules.from_betas(betas)
    np.testing.assert_allclose(made.alphas_bar, kept, rtol=1e-12)
    np.testing.assert_allclose(made(jnp.linspace(0, 1, 50)), np.log(kept / (1 - kept)), rtol=1e-9)


def test_pooling_shifts_log_snr_by_its_dimensions():
    assert schedules.shift_of(32, 64) == pytest.approx(-2 * np.log(2))
    assert schedules.shift_of(32, 64, 1) == pytest.approx(-np.log(2))
    assert schedules.shift_of(32, 64, 3) == pytest.approx(-3 * np.log(2))
    large = schedules.shifted(schedules.cosine(), 32, 128)
    assert large.ends == pytest.approx((-15 - 2 * np.log(4), 15 - 2 * np.log(4)))


def test_interpolated_meets_both_shifted_ones_at_its_ends(x64):
    base = schedules.cosine()
    mixed = schedules.interpolated(base, at_data=32, at_noise=128, resolution=128)
    np.testing.assert_allclose(mixed(0.0), schedules.shifted(base, 32, 128)(0.0), rtol=1e-14)
    np.testing.assert_allclose(mixed(1.0), schedules.shifted(base, 128, 128)(1.0), rtol=1e-14)


def test_sigmas_of_edm(x64):
    for steps in (2, 18, 40):
        np.testing.assert_allclose(
            schedules.edm_sigmas(steps), reference.edm_sigmas(steps), rtol=1e-14
        )
    assert schedules.edm_sigmas(18)[0] == pytest.approx(80.0)
    assert schedules.edm_sigmas(18)[-1] == 0.0


@pytest.mark.sample(1)
def test_a_learned_schedule_keeps_its_ends_and_learns(precision):
    schedule = schedules.learned(jax.random.key(1), 16, -6.0, 9.0)
    wild = jax.tree.map(lambda leaf: leaf * 3.0, schedule).replace(
        logsnr_min=schedule.logsnr_min, logsnr_max=schedule.logsnr_max
    )
    for one in (schedule, wild):
        np.testing.assert_allclose(one(jnp.array([0.0, 1.0])), [9.0, -6.0], atol=1e-6)
        assert np.all(np.diff(one(jnp.linspace(0, 1, 101))) < 0)
    gradient = jax.grad(lambda s: s(0.4))(schedule)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    moved = jax.vmap(lambda s, t: s(t), in_axes=(None, 0))(schedule, jnp.linspace(0, 1, 3))
    assert moved.shape == (3,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.cosine(3.0, 3.0), "logsnr_min, logsnr_max: expected finite, incr"),
        (lambda: schedules.linear(float("nan"), 3.0), "logsnr_min, logsnr_max: expected finite"),
        (
            lambda: schedules.shifted(schedules.cosine(), 0, 8),
            "base_resolution, resolution, dim",
        ),
        (
            lambda: schedules.interpolated(schedules.cosine(), 1, 4096, 64),
            "at_data, at_noise: expected a log-SNR that falls with t, got one that rises",
        ),
        (lambda: schedules.vp_sde(2.0, 1.0), "beta_min, beta_max, start: expected 0 < beta_min"),
        (lambda: schedules.edm(std=0.0), "mean, std, sigma_min, sigma_max: expected"),
        (lambda: schedules.edm_sigmas(1), "steps: expected a whole number of at least 2"),
        (lambda: schedules.learned(jax.random.key(0), 0), "width: expected at least 1, got 0"),
        (lambda: schedules.linear_beta(1), "steps: expected at least 2, got 1"),
        (lambda: schedules.from_betas([0.1, 1.2]), r"betas: expected at least two numbers in \(0"),
        (
            lambda: schedules.Table(np.array([1.0, 2.0])),
            "logsnrs: expected finite values that fall",
        ),
        (lambda: inspect.unwrap(schedules.shifted)(64, 2, 256), "schedule: expected a Schedule"),
        (lambda: schedules.cosine()(1.5), r"t: expected values in \[0, 1\], got 1.5"),
        (lambda: schedules.cosine()(float("nan")), r"t: expected values in \[0, 1\], got nan"),
        (
            lambda: schedules.cosine().inverse(17.0),
            r"logsnr: expected values in \[-15, 15\], got 17",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_traced_values_outside_are_nan():
    schedule = schedules.cosine()
    assert np.isnan(jax.jit(schedule)(1.5)) and np.isnan(jax.jit(schedule.inverse)(-17.0))
    assert np.isfinite(jax.jit(schedule)(1.0))
