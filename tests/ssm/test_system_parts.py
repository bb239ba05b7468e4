"""What systems and layers are made of, part by part, against NumPy, SciPy and mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from reference import ssm as reference

from ssm import (
    bases,
    cauchy,
    diagonal,
    dplr,
    fraction,
    hippo,
    norms,
    rational,
    short_convolution,
    signals,
    vandermonde,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def parts(z):
    return jnp.asarray(np.real(z)), jnp.asarray(np.imag(z))


def whole(pair):
    return np.asarray(pair[0]) + 1j * np.asarray(pair[1])


RECURRENCES = {  # slope, level and drop of f_{n+1} = (slope x + level) f_n - drop f_{n-1}
    "chebyshev": (lambda n: (1.0 if n == 0 else 2.0, 0.0, 1.0), scipy.special.eval_chebyt),
    "legendre": (lambda n: ((2 * n + 1) / (n + 1), 0.0, n / (n + 1)), scipy.special.eval_legendre),
    "hermite": (lambda n: (2.0, 0.0, 2.0 * n), scipy.special.eval_hermite),
    "laguerre": (
        lambda n: (-1 / (n + 1), (2 * n + 1) / (n + 1), n / (n + 1)),
        scipy.special.eval_laguerre,
    ),
}


@pytest.mark.parametrize("name", RECURRENCES)
def test_sums_over_any_three_term_recurrence(name, x64):
    terms, function = RECURRENCES[name]
    slope, level, drop = (jnp.asarray(part) for part in np.array([terms(n) for n in range(7)]).T)
    c, x = rng().normal(size=(2, 7)), np.linspace(-1.5, 2.5, 11).reshape(11, 1)
    found = bases.clenshaw(jnp.asarray(c), slope, level, drop, jnp.asarray(x))
    exact = sum(c[:, n, None, None] * function(n, x) for n in range(7))
    assert found.shape == (2, 11, 1)
    np.testing.assert_allclose(found, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", [2, 7, 4096])
def test_half_angles_keep_their_digits_at_both_ends(length):
    s, c = cauchy.half_angles(length, jnp.dtype("float32"))
    j = np.arange(length // 2 + 1)
    with mpmath.workdps(30):
        exact = [float(mpmath.cospi(mpmath.mpf(int(k)) / length)) for k in j]
    np.testing.assert_allclose(c, exact, rtol=3e-7)  # relative: next to Nyquist too
    np.testing.assert_allclose(s, np.sin(np.pi * j / length), rtol=3e-7)
    assert length % 2 or float(c[-1]) == 0.0


@pytest.mark.parametrize("rule", diagonal.DISCRETIZATIONS)
def test_steps_of_poles_are_those_of_thirty_digits(rule, precision):
    poles = np.array([-1e-9 + 0j, -0.5, -0.1 + 3j, -1e-6 + 900j, -40.0 - 2j, 0j])
    dt = np.array([1e-3, 1.0, 0.3, 0.01, 2.0, 0.5])
    kind = "complex64" if precision == "float32" else "complex128"
    poles, dt = poles.astype(kind), dt.astype(precision)
    exact_a, exact_b = [], []
    with mpmath.workdps(30):
        for value, step in zip(poles, dt, strict=True):
            z = mpmath.mpc(complex(value)) * float(step)
            if rule == "zoh":
                a, b = mpmath.exp(z), float(step) * (mpmath.expm1(z) / z if z else 1)
            else:
                a, b = (1 + z / 2) / (1 - z / 2), float(step) / (1 - z / 2)
            exact_a.append(complex(a))
            exact_b.append(complex(b))
    bound = {"float32": 1e-6, "float64": 1e-14}[precision]
    found = whole(diagonal.multipliers(parts(poles), jnp.asarray(dt), rule))
    np.testing.assert_allclose(found, exact_a, atol=bound)
    found = whole(diagonal.gains(parts(poles), jnp.asarray(dt), rule))
    np.testing.assert_allclose(found, exact_b, rtol=4 * bound)


def test_held_steps_are_those_of_the_matrix_exponential(x64):
    poles, dt = -rng().uniform(0.1, 2.0, 5) + 1j * rng(1).normal(size=5) * 4, 0.3
    block = np.zeros((6, 6), complex)
    block[:5, :5], block[:5, 5] = np.diag(poles), 1.0
    exact = scipy.linalg.expm(dt * block)
    steps = jnp.full(5, dt)
    found = whole(diagonal.multipliers(parts(poles), steps, "zoh"))
    np.testing.assert_allclose(found, np.diag(exact)[:5], rtol=1e-12)
    found = whole(diagonal.gains(parts(poles), steps, "zoh"))
    np.testing.assert_allclose(found, exact[:5, 5], rtol=1e-12)


def test_decays_are_bounded_and_come_back(x64):
    poles = np.array([-3.0, -0.5 + 2j, -2 * diagonal.DECAY, -1e-9, 0.4])
    found = diagonal.decaying(jnp.asarray(diagonal.log_decay(poles)))
    exact = np.minimum(poles.real, -2 * diagonal.DECAY)
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    assert float(diagonal.decaying(jnp.asarray(-1e3))) == -diagonal.DECAY


def test_initial_steps_are_even_in_their_logarithm():
    found = np.asarray(diagonal.log_steps(jax.random.key(0), 4000, 1e-3, 0.1))
    law = scipy.stats.uniform(np.log(1e-3), np.log(100.0))
    assert scipy.stats.kstest(found, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("rank", [1, 3])
def test_inverses_of_small_matrices_are_those_of_numpy(rank, x64):
    matrix = rng().normal(size=(4, rank, rank)) + 1j * rng(1).normal(size=(4, rank, rank))
    matrix += 3 * np.eye(rank)
    np.testing.assert_allclose(
        dplr.small_inverse(jnp.asarray(matrix)), np.linalg.inv(matrix), rtol=1e-11, atol=1e-13
    )


def test_phases_make_rows_real():
    turns = np.exp(1j * np.array([0.3, -2.0, 1.0]))
    rows = rng().normal(size=(3, 4)) * turns[:, None]
    rows[2] = 0.0
    factors = dplr.real_phase(rows)
    np.testing.assert_allclose(np.abs(factors), 1.0)
    np.testing.assert_allclose((rows * factors[:, None]).imag, 0.0, atol=1e-12)
    assert factors[2] == 1.0


def test_undamped_systems_are_those_of_strong_corrections():
    def undamped(measure):
        Lambda, P, *_ = hippo.dplr(measure, 9)
        P = np.asarray(P).reshape(-1, len(Lambda))
        return dplr.is_undamped(Lambda[None], P[None])

    assert undamped("legt") and undamped("fout")
    assert not dplr.is_undamped(np.array([[-5.0 + 1j]]), np.array([[[0.1 + 0j]]]))


@pytest.mark.parametrize("delay", [0, 1])
def test_kernels_of_fractions_are_the_series(delay, x64):
    groups, channels, size = 2, 4, 3
    b = rng().normal(size=(channels, size))
    a = 0.3 * rng(1).normal(size=(groups, size))
    d = rng(2).normal(size=channels)
    system = fraction.System(*map(jnp.asarray, (b, a, d)), delay=delay)
    found = fraction.kernel(system, 9)
    for h in range(channels):
        exact = np.zeros(9)
        exact[delay:] = reference.series(b[h], a[h // 2], 9 - delay)
        exact[0] += d[h]
        np.testing.assert_allclose(found[h], exact, atol=1e-12)
    np.testing.assert_allclose(fraction.kernel(fraction.exact(system), 9), found, atol=1e-12)
    if delay:
        stored = fraction.truncated(system, 16)
        np.testing.assert_allclose(fraction.kernel(stored, 9), found, atol=1e-11)
        again = fraction.from_values(stored, fraction.kernel(stored, 16))
        np.testing.assert_allclose(again.numerator, b, atol=1e-11)


def test_products_by_z_are_those_of_polynomials(x64):
    p, a = rng().normal(size=5), rng(1).normal(size=5)
    _, exact = np.polydiv(np.append(p, 0.0), np.append(1.0, a))
    found = rational.times_z(jnp.asarray(p), jnp.asarray(a))
    np.testing.assert_allclose(found, np.pad(exact, (5 - len(exact), 0)), atol=1e-13)
    np.testing.assert_array_equal(rational.with_one(jnp.asarray([[2.0, 3.0]])), [[1.0, 2.0, 3.0]])
    q = rng(2).normal(size=(2, 4))
    exact = [np.polymul(p, row) for row in q]
    np.testing.assert_allclose(rational.multiply(jnp.asarray(p), jnp.asarray(q)), exact, atol=1e-12)


def test_quotients_and_products_of_pairs(x64):
    z, w = (rng(seed).normal(size=(2, 6)) for seed in (0, 1))
    z, w = z[0] + 1j * z[1], w[0] + 1j * w[1]
    np.testing.assert_allclose(whole(vandermonde.divide(parts(z), parts(w))), z / w, rtol=1e-13)
    np.testing.assert_allclose(whole(vandermonde.times(parts(z), parts(w))), z * w, rtol=1e-13)


def test_split_multipliers_add_up_to_twice_the_digits():
    re, im, dt = (jnp.asarray(v, "float32") for v in ([-0.3, -1e-3], [5.0, 700.0], [0.01, 0.013]))
    near, rest = vandermonde.split(vandermonde.held(re, im, dt))
    double = [np.asarray(part, float) for part in (re, im, dt)]
    exact = np.exp(double[2] * (double[0] + 1j * double[1]))
    found = sum(np.asarray(p[0], float) + 1j * np.asarray(p[1], float) for p in (near, rest))
    assert np.abs(found - exact).max() < 1e-9  # float32 alone: 6e-8


def test_signals_are_filtered_channel_by_channel(x64):
    u, kernel, D = rng().normal(size=(2, 9, 3)), rng(1).normal(size=(3, 9)), rng(2).normal(size=3)
    found = signals.filtered(*map(jnp.asarray, (u, kernel, D)))
    for i, h in np.ndindex(2, 3):
        exact = reference.convolution(u[i, :, h], kernel[h]) + D[h] * u[i, :, h]
        np.testing.assert_allclose(found[i, :, h], exact, atol=1e-12)


def test_prefixes_are_all_of_a_signal_or_what_is_said():
    u = np.ones((2, 5, 3), np.float32)
    np.testing.assert_array_equal(signals.prefix(u, 3, None)[1], [5, 5])
    np.testing.assert_array_equal(signals.prefix(u, 3, np.array([0, 4]))[1], [0, 4])
    for lengths, message in (
        (np.array([1, 6]), r"lengths: expected 0 to 5, got \[1, 6\]"),
        (np.array([1.0, 2.0]), "lengths: expected 2 whole numbers, got float"),
        (np.array([1]), r"lengths: expected 2 whole numbers, got int64 \(1,\)|int32 \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            signals.prefix(u, 3, lengths)


@pytest.mark.parametrize("kind", norms.NORMS)
def test_norms_are_their_definitions(kind, x64):
    x = rng().normal(2.0, 3.0, (2, 6, 4))
    weights = {name: jnp.asarray(rng(7).normal(size=4) ** 2) for name in norms.init(kind, 4)}
    counts = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])[..., None].astype(bool)
    if kind == "batch":
        seen = x[counts[..., 0]]
        mean, variance = seen.mean(axis=0), seen.var(axis=0)
        still = norms.apply(weights, jnp.asarray(x))
        exact = (x - weights["mean"]) / np.sqrt(weights["variance"] + norms.EPSILON)
        np.testing.assert_allclose(still, exact * weights["gain"] + weights["bias"], rtol=1e-12)
    elif kind == "layer":
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    else:
        mean, variance = 0.0, (x**2).mean(-1, keepdims=True)
    found = norms.apply(weights, jnp.asarray(x), jnp.asarray(counts), train=True)
    exact = (x - mean) / np.sqrt(variance + norms.EPSILON) * weights["gain"]
    np.testing.assert_allclose(found, exact + weights.get("bias", 0.0), rtol=1e-11)


def test_running_statistics_follow_the_batch_by_descent(x64):
    x = rng().normal(2.0, 3.0, (3, 5, 4))
    weights = {name: jnp.asarray(value, float) for name, value in norms.init("batch", 4).items()}
    slope = jax.grad(lambda w: jnp.sum(norms.apply(w, jnp.asarray(x), train=True)))(weights)
    flat = x.reshape(-1, 4)
    np.testing.assert_allclose(slope["mean"], -flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(slope["variance"], 1.0 - flat.var(axis=0, ddof=1), rtol=1e-12)
    tree = {"norm": weights, "other": {"mean": jnp.ones(1)}}
    marked = norms.is_statistic(tree)
    assert marked["norm"] == {"gain": False, "bias": False, "mean": True, "variance": True}
    assert marked["other"] == {"mean": False}


def test_short_convolutions_step_as_they_read(x64):
    params = {"weight": jnp.asarray(rng().normal(size=(3, 2))), "bias": jnp.asarray([0.5, -1.0])}
    u = rng(1).normal(size=(2, 7, 2))
    exact = np.zeros_like(u) + np.asarray(params["bias"])
    for step in range(7):
        for w in range(3):
            if step - 2 + w >= 0:
                exact[:, step] += np.asarray(params["weight"])[w] * u[:, step - 2 + w]
    np.testing.assert_allclose(short_convolution.apply(params, jnp.asarray(u)), exact, atol=1e-12)
    lengths, state = jnp.array([4, 1]), short_convolution.init_state(2, 2, 3, u.dtype)
    state, _ = short_convolution.prefill(params, jnp.asarray(u), state, lengths)
    np.testing.assert_array_equal(state[0], u[0, 2:4])
    np.testing.assert_array_equal(state[1], [[0.0, 0.0], u[1, 0]])
    _, y = short_convolution.step(params, state, jnp.asarray(u[[0, 1], [4, 1]]))
    np.testing.assert_allclose(y, exact[[0, 1], [4, 1]], atol=1e-12)


@pytest.mark.parametrize("wrap", [1.0, 0.1])
def test_a_kernel_has_all_periods_of_a_pole_next_to_the_circle_less_with_a_radius(wrap, x64):
    pole, length = 0.9999, 64
    rows = jnp.ones((1, 1)), jnp.full((1, 1), -pole), jnp.zeros(1)
    one = fraction.System(*rows, length=length, radius=wrap ** (1 / length))
    expected = pole ** np.arange(length - 1) / (1 - wrap * pole**length)
    kernel = fraction.kernel(one, length)
    np.testing.assert_allclose(kernel[0, 1:], expected, rtol=1e-10)
    assert kernel.max() == pytest.approx(157 if wrap == 1.0 else 1.11, rel=0.01)
