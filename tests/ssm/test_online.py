"""Reading signals: trajectories against dense float64 loops, orders of convergence, the post's
statements about scale and memory, streaming.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import hippo as reference

from ssm import bases, discretize, hippo, history, online

SIGNAL = np.random.default_rng(0).normal(size=40)


def smooth(t):
    return np.sin(5 * t + 0.3) + 0.5 * np.cos(11 * t)


def samples(length, u=smooth):
    return u(np.arange(1, length + 1) / length)


def close(got, expected, rtol):
    np.testing.assert_allclose(got, expected, atol=rtol * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("method", history.METHODS)
@pytest.mark.parametrize("measure", hippo.WHOLE)
def test_whole_histories_follow_the_dense_loop(measure, method, x64):
    A, B = hippo.transition(measure, 7)
    got = online.project(SIGNAL, measure, 7, method)
    assert got.shape == (40, 7) and got.dtype == jnp.float64
    close(got, reference.whole_history(SIGNAL, A, B, method), 1e-9)


@pytest.mark.parametrize("hold", online.HOLDS)
@pytest.mark.parametrize("method", discretize.METHODS)
def test_windows_follow_the_dense_loop(method, hold, x64):
    alpha = 0.7 if method == "gbt" else None
    A, B = hippo.transition("legt", 6)
    got = online.project(SIGNAL, "legt", 6, method, window=0.5, hold=hold, alpha=alpha)
    expected = reference.window(SIGNAL, A, B, 1 / (40 * 0.5), method, hold, alpha)
    close(got, expected, 1e-9)


def test_the_trapezoid_is_the_bilinear_rule_with_that_hold(x64):
    ours = online.project(SIGNAL, "legt", 6, "trapezoid", window=0.5)
    A, B = hippo.transition("legt", 6)
    close(ours, reference.window(SIGNAL, A, B, 1 / 20, "bilinear", "trapezoid"), 1e-9)


def test_laguerre_measures_take_their_parameters(x64):
    shape = (0.5, 0.3)
    A, B = hippo.transition("glagt", 5, alpha=shape[0], beta=shape[1])
    got = online.project(SIGNAL, "glagt", 5, "zoh", window=0.25, laguerre=shape)
    close(got, reference.window(SIGNAL, A, B, 0.1, "zoh"), 1e-9)
    s = np.linspace(0.1, 0.9, 5)
    np.testing.assert_array_equal(
        online.reconstruct(got[-1], "glagt", s, laguerre=shape),
        bases.evaluate(got[-1], "glagt", jnp.asarray(s), alpha=0.5, beta=0.3),
    )


@pytest.mark.parametrize("measure", [m for m in hippo.MEASURES if m not in hippo.WHOLE])
def test_every_windowed_measure_runs(measure, x64):
    A, B = hippo.transition(measure, 5)
    got = online.project(SIGNAL, measure, 5, window=0.25)
    close(got, reference.window(SIGNAL, A, B, 0.1, "bilinear"), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 5, 32])
def test_the_exact_method_projects_the_held_signal(n, x64):
    got = online.project(SIGNAL, "legs", n, "exact")
    np.testing.assert_allclose(got, reference.held(SIGNAL, "legs", n), atol=2e-13)


@pytest.mark.parametrize("method", history.METHODS)
def test_single_precision(method):
    n = 4 if method == "forward" else 64
    got = online.project(SIGNAL.astype(np.float32), "legs", n, method)
    with jax.enable_x64(True):
        exact = online.project(SIGNAL, "legs", n, method)
    assert got.dtype == jnp.float32
    # The exact method evaluates polynomials of degree 63 at rounded points.
    close(got, exact, 1e-5 if method == "exact" else 3e-6)


@pytest.mark.parametrize("n", [64, 256])
def test_long_signals_in_single_precision(n):
    signal = np.random.default_rng(1).normal(size=2048).astype(np.float32)
    got = online.project(signal, "legs", n, "bilinear")
    with jax.enable_x64(True):
        exact = online.project(signal.astype(np.float64), "legs", n, "bilinear")
    close(got, exact, 3e-6)


ORDERS = {
    "legs": {"forward": 1, "backward": 1, "bilinear": 1, "trapezoid": 2, "exact": 1},
    "legt": {"forward": 1, "backward": 1, "bilinear": 1, "trapezoid": 2, "zoh": 1},
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("measure", ORDERS)
def test_orders_of_convergence(measure, x64):
    """Against the exact projection for LegS, the exact solution of the system for LegT."""

    def cubic(t):
        return 1.0 + t - 3.0 * t**2 + 2.0 * t**3

    n, lengths = 5, np.array([512, 1024, 2048])
    if measure == "legs":
        exact = reference.coefficients(cubic, 1.0, measure, n)
    else:
        exact = reference.solution(*hippo.transition(measure, n), [1.0, 1.0, -3.0, 2.0])
    for method, order in ORDERS[measure].items():
        errors = [
            np.abs(online.project(samples(length, cubic), measure, n, method)[-1] - exact).max()
            for length in lengths
        ]
        slope = -np.polyfit(np.log(lengths), np.log(errors), 1)[0]
        np.testing.assert_allclose(slope, order, atol=0.1, err_msg=method)


@pytest.mark.parametrize(("method", "order"), [("backward", 1), ("bilinear", 2), ("zoh", 2)])
def test_orders_with_the_mean_of_both_samples(method, order, x64):
    def cubic(t):
        return 1.0 + t - 3.0 * t**2 + 2.0 * t**3

    lengths = np.array([256, 1024])
    exact = reference.solution(*hippo.transition("legt", 5), [1.0, 1.0, -3.0, 2.0])
    errors = [
        np.abs(online.project(samples(k, cubic), "legt", 5, method, hold="trapezoid")[-1] - exact)
        for k in lengths
    ]
    slope = -np.diff(np.log([error.max() for error in errors])) / np.diff(np.log(lengths))
    np.testing.assert_allclose(slope, order, atol=0.1)


def test_the_variable_step_trapezoid_beats_the_bilinear_rule(x64):
    """At L = 256, N = 16, on five harmonics."""
    generator = np.random.default_rng(0)
    a, phase = generator.normal(size=5), generator.uniform(0, 2 * np.pi, 5)

    def harmonics(t):
        waves = [a[k] * np.cos(2 * np.pi * (k + 1) * t + phase[k]) for k in range(5)]
        return np.sum(waves, axis=0)

    exact = reference.coefficients(harmonics, 1.0, "legs", 16)
    signal = samples(256, harmonics)
    error = {
        method: np.abs(online.project(signal, "legs", 16, method)[-1] - exact).max()
        for method in ("bilinear", "trapezoid")
    }
    assert error["trapezoid"] <= 0.4 * error["bilinear"]


@pytest.mark.parametrize("method", history.METHODS)
def test_no_step_size_enters_the_whole_history(method, x64):
    """States of a beginning do not depend on how long the signal goes on; a window's do."""
    n = 8 if method != "forward" else 3
    signal = samples(128)
    alone = online.project(signal[:64], "legs", n, method)
    close(online.project(signal, "legs", n, method)[:64], np.asarray(alone), 1e-12)
    inside, window = (online.project(u, "legt", 3)[:64] for u in (signal, signal[:64]))
    assert np.abs(inside - window).max() > 1e-2


@pytest.mark.parametrize("speed", [2, 3])
def test_a_signal_at_another_speed_leaves_the_same_states(speed, x64):
    """Every sample held longer: the held signal is the same but for its time scale."""
    fast = online.project(SIGNAL, "legs", 8, "exact")
    slow = online.project(np.repeat(SIGNAL, speed), "legs", 8, "exact")
    close(slow[speed - 1 :: speed], np.asarray(fast), 1e-12)


def test_memory_of_an_impulse_fades_like_one_over_the_time_and_exponentially_in_a_fixed_system(x64):
    impulse = np.zeros(8192)
    impulse[3] = 1.0
    times = np.array([1024, 2048, 4096, 8192])
    for method in ("exact", "trapezoid", "bilinear"):
        size = np.linalg.norm(online.project(impulse, "legs", 4, method)[times - 1], axis=1)
        slope = np.polyfit(np.log(times), np.log(size), 1)[0]
        np.testing.assert_allclose(slope, -1.0, atol=0.02, err_msg=method)
    fixed = online.project(impulse, "lagt", 4, "zoh", window=16 / 8192)
    rate = np.diff(np.log(np.linalg.norm(fixed[times[:3] - 1], axis=1))) / np.diff(times[:3])
    np.testing.assert_allclose(rate, -0.5 / 16, rtol=0.1)  # exp(-age / 2) times a cubic


def test_gradients_reach_the_first_sample(x64):
    """D c_L / d u_1 is what an impulse leaves: linear systems, so checked exactly."""

    def last(u):
        return online.project(u, "legs", 3, "trapezoid")[-1]

    jacobian = jax.jacrev(last)(jnp.asarray(SIGNAL))
    np.testing.assert_allclose(jacobian @ SIGNAL, last(SIGNAL), atol=1e-13)
    impulse = np.zeros(40)
    impulse[0] = 1.0
    np.testing.assert_allclose(jacobian[:, 0], last(impulse), atol=1e-14)


@pytest.mark.parametrize(
    ("measure", "method", "dt"), [("legs", "trapezoid", None), ("fout", "zoh", 0.05)]
)
def test_streaming_is_the_scan_step_by_step(measure, method, dt, x64):
    memory = online.projector(measure, 5, method, dt=dt)
    state, step = memory.init(), jax.jit(memory.step)
    states = []
    for u in SIGNAL:
        state, c = step(state, u)
        states.append(c)
    window = 1.0 if dt is None else 1 / (40 * dt)
    whole = online.project(SIGNAL, measure, 5, method, window=window)
    close(np.array(states), np.asarray(whole), 1e-14)


def test_batches_by_vmap():
    signals = jnp.asarray(SIGNAL.reshape(4, 10), jnp.float32)
    got = jax.jit(jax.vmap(lambda u: online.project(u, "legs", 5, "backward")))(signals)
    for signal, states in zip(signals, got, strict=True):
        close(states, online.project(signal, "legs", 5, "backward"), 1e-6)


def test_states_remember_the_signal(x64):
    """LegT and FouT their window, LegS everything: reconstructions against the signal."""
    signal = samples(4096)
    s = np.linspace(0.05, 0.95, 50)
    for measure, n, window, bound in (
        ("legs", 24, 1.0, 1e-3),
        ("legt", 16, 0.4, 1e-2),
        ("lmu", 16, 0.4, 1e-2),
        ("fout", 65, 0.4, 0.1),
    ):
        method = "trapezoid"
        c = online.project(signal, measure, n, method, window=window)[-1]
        got = online.reconstruct(c, measure, s)
        assert np.abs(got - smooth(1 - window + window * s)).max() < bound, measure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "leg"}, r"measure: expected one of legs, .*got 'leg'"),
        ({"n": 0}, r"n: expected an integer >= 1, got 0"),
        ({"measure": "fout", "n": 4}, r"n: fout .*odd, got 4"),
        ({"method": "zoh"}, r"method: expected one of forward, .*exact for legs, got 'zoh'"),
        ({"measure": "legt", "method": "exact"}, r"method: .*zoh, trapezoid for legt, got 'exact'"),
        ({"measure": "legt", "window": 0.0}, r"window: expected a fraction in \(0, 1\].*got 0.0"),
        ({"measure": "legt", "window": 1.5}, r"window: expected a fraction in \(0, 1\].*got 1.5"),
        ({"window": 0.5}, r"window: legs keeps the whole history"),
        ({"alpha": 0.5}, r"alpha: legs has no step size and no method gbt"),
        ({"hold": "trapezoid"}, r"hold: expected one of right for legs, got 'trapezoid'"),
        ({"measure": "legt", "hold": "left"}, r"hold: expected one of right, trapezoid for legt"),
        ({"laguerre": (1.0, 1.0)}, r"laguerre: only for the measure glagt, got \(1.0, 1.0\)"),
        ({"signal": np.ones(0)}, r"signal: expected a vector with samples, got shape \(0,\)"),
        ({"signal": np.ones((2, 3))}, r"signal: expected a vector .*\(2, 3\)"),
        ({"signal": [1.0, np.nan]}, r"signal: expected finite numbers"),
        ({"signal": [1.0, np.inf]}, r"signal: expected finite numbers"),
    ],
)
def test_bad_input(change, message):
    arguments = {"signal": SIGNAL, "measure": "legs", "n": 4, **change}
    with pytest.raises(ValueError, match=message):
        online.project(**arguments)


def test_a_number_is_no_state():
    with pytest.raises(ValueError, match=r"coefficients: expected states \[\.\.\., N\], got 3.0"):
        online.reconstruct(3.0, "legs", [0.5])


@pytest.mark.parametrize(("measure", "point"), [("legs", -0.1), ("legt", 1.1), ("lagt", 1.1)])
def test_positions_outside_are_refused(measure, point):
    with pytest.raises(ValueError, match=f"points: expected .* to 1, got .*{point:g}"):
        online.reconstruct(np.ones(4), measure, [0.5, point])
    assert np.isfinite(online.reconstruct(np.ones(4), "lagt", [-3.0])).all()


def test_steps_have_to_fit_the_measure():
    with pytest.raises(ValueError, match="dt: expected a positive number, got None"):
        online.projector("legt", 4)
    with pytest.raises(ValueError, match="legs has no step size"):
        online.projector("legs", 4, dt=0.1)


def test_a_singular_step_is_named():
    """A measure is never singular at a positive step; a system of one's own may be."""
    with pytest.raises(ValueError, match=r"dt: I - 1.0 dt A is singular at dt = 0.5"):
        discretize.discretize(2.0 * np.eye(2), np.ones(2), 0.5, "backward")


def test_states_of_whole_numbers_are_numbers():
    points = [0.25, 0.75]
    floats = online.reconstruct([1.0, 1.0, 1.0], "legs", points)
    np.testing.assert_array_equal(online.reconstruct([1, 1, 1], "legs", points), floats)
    np.testing.assert_array_equal(
        bases.evaluate(jnp.array([1, 1, 1]), "legs", jnp.array(points)), floats
    )


@pytest.mark.parametrize("measure", ["legs", "legt"])
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_signals_of_half_precision_are_counted_to_their_end(measure, half):
    """The states of a long one are those in single precision."""
    signal = jnp.where(jnp.arange(4096) < 2048, 1.0, 0.0)
    expected = online.project(signal, measure, 4)
    found = online.project(signal.astype(half), measure, 4)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)
