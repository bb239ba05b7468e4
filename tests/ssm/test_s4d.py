"""S4D: both views of one system against a loop in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ssm as reference

from ssm import hippo, s4d
from ssm.diagonal import DISCRETIZATIONS
from ssm.discretize import discretize

H, M, B = 3, 4, 2


def numbers(seed=0, length=9):
    rng = np.random.default_rng(seed)
    complex_pair = rng.normal(size=(2, 2, H, M))
    Lambda = -rng.uniform(0.01, 1.0, (H, M)) + 1j * rng.uniform(0.0, 20.0, (H, M))
    Lambda[0, 0] = 0.0
    inputs, outputs = complex_pair[:, 0] + 1j * complex_pair[:, 1]
    dt = np.array([1e-3, 0.1, 1.0])
    D = rng.normal(size=H)
    return Lambda, inputs, outputs, D, dt, rng.normal(size=(B, length, H))


def system(rule, seed=0):
    return s4d.from_diagonal(*numbers(seed)[:5], rule)


def near(value, expected, bound):
    np.testing.assert_allclose(value, expected, atol=bound * np.max(np.abs(expected)), rtol=0)


@pytest.mark.sample(2)
@pytest.mark.parametrize("rule", DISCRETIZATIONS)
@pytest.mark.parametrize("length", [1, 8, 9, 100])
def test_convolution_equals_the_loop(rule, length, precision):
    *parts, u = numbers(length=length)
    bound = 1e-12 if precision == "float64" else 3e-6
    y = jax.jit(s4d.apply)(system(rule), u)
    for i in range(B):
        near(y[i], reference.diagonal_output(*parts, u[i], rule)[0], bound)
    kernel = jax.jit(s4d.kernel, static_argnums=1)(system(rule), length)
    assert kernel.dtype.name == precision
    a, b = reference.diagonal_step(parts[0], parts[1], parts[4][:, None], rule)
    rows = [2.0 * reference.power_sums(parts[2][h] * b[h], a[h], length).real for h in range(H)]
    near(kernel, np.array(rows), bound)


@pytest.mark.parametrize("rule", DISCRETIZATIONS)
def test_recurrence_equals_the_loop(rule, precision):
    *parts, u = numbers()
    one = system(rule)
    prepared = s4d.prepare(one)
    state, y = jax.jit(
        lambda u: jax.lax.scan(
            lambda x, now: s4d.step(prepared, x, now), s4d.init_state(one, B), u.swapaxes(0, 1)
        )
    )(jnp.asarray(u))
    bound = 1e-12 if precision == "float64" else 3e-6
    for i in range(B):
        expected, last = reference.diagonal_output(*parts, u[i], rule)
        near(y[:, i], expected, bound)
        near(state[0][i] + 1j * state[1][i], last, bound)


@pytest.mark.sample(1)
@pytest.mark.parametrize("rule", DISCRETIZATIONS)
@pytest.mark.parametrize("lengths", [None, (5, 9), (0, 1)])
def test_prefill_gives_the_exact_state_of_every_prefix(rule, lengths, x64):
    *parts, u = numbers()
    rng = np.random.default_rng(5)
    start = rng.normal(size=(B, H, M)) + 1j * rng.normal(size=(B, H, M))
    state, y = jax.jit(s4d.prefill)(
        system(rule), u, (start.real, start.imag), None if lengths is None else np.array(lengths)
    )
    for i, count in enumerate(lengths or (9, 9)):
        expected, last = reference.diagonal_output(*parts, u[i, :count], rule, start[i])
        near(state[0][i] + 1j * state[1][i], last, 1e-12)
        if count:
            near(y[i, :count], expected, 1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("rule", DISCRETIZATIONS)
def test_gradients_of_both_views_agree(rule, x64):
    u = numbers()[-1]

    def by_convolution(one, u):
        return jnp.sum(jnp.sin(s4d.apply(one, u)))

    def by_recurrence(one, u):
        prepared = s4d.prepare(one)
        body = lambda x, now: s4d.step(prepared, x, now)  # noqa: E731
        return jnp.sum(jnp.sin(jax.lax.scan(body, s4d.init_state(one, B), u.swapaxes(0, 1))[1]))

    both = [jax.jit(jax.grad(f, (0, 1)))(system(rule), u) for f in (by_convolution, by_recurrence)]
    for ours, other in zip(*map(jax.tree.leaves, both), strict=True):
        assert np.isfinite(ours).all()
        near(ours, np.asarray(other), 1e-10)


def test_a_million_steps_of_high_frequency_keep_their_phase():
    """Phases reach 2e5 turns; the reference multiplies the single-precision numbers exactly."""
    length, places = 1 << 20, np.array([0, 12345, 524287, 1048575])
    Lambda = np.complex64(-1e-2 + 1j * s4d.poles("inv", 32)[0].imag)
    dt = np.float32(1e-3)
    one = s4d.from_diagonal(
        Lambda[None], np.ones((1, 32)), np.full((1, 32), 0.5), np.zeros(1), dt[None]
    )
    values = np.asarray(jax.jit(s4d.kernel, static_argnums=1)(one, length))[0, places]
    z = np.float64(dt) * (Lambda.real.astype(float) + 1j * Lambda.imag.astype(float))
    b = np.expm1(z) / (Lambda.real.astype(float) + 1j * Lambda.imag.astype(float))
    expected = np.array([np.sum(b * np.exp(z * l)).real for l in places])  # noqa: E741
    near(values, expected, 1e-6)  # the largest value, at 0, is among them


def test_initial_poles_are_those_of_the_paper():
    n = np.arange(4)
    for name, frequency in (
        ("lin", np.pi * n),
        ("inv", 8 / np.pi * (8 / (2 * n + 1) - 1)),
        ("inv2", 8 / np.pi * (8 / (n + 1) - 1)),
        ("quad", (1 + 2 * n) ** 2 / np.pi),
    ):
        Lambda, inputs = s4d.poles(name, 4)
        np.testing.assert_allclose(Lambda, -0.5 + 1j * frequency, rtol=1e-15)
        np.testing.assert_array_equal(inputs, 1.0)
    np.testing.assert_array_equal(s4d.poles("real", 4)[0], -(n + 1.0))
    Lambda, _ = s4d.poles("legs", 4)
    normal = hippo.transition("legs", 8)[0] + 0.5 * np.outer(*[np.sqrt(2 * np.arange(8) + 1)] * 2)
    assert (Lambda.imag > 0).all()
    np.testing.assert_allclose(
        np.sort(Lambda.imag), np.sort(np.linalg.eigvals(normal).imag)[4:], rtol=1e-10
    )


def test_the_diagonal_of_legs_answers_smooth_signals_as_legs_does(x64):
    """Responses do not converge point by point, but for smooth inputs they do: S4D, theorem 3."""
    t = np.linspace(0.0, 3.0, 601)
    u = np.sin(3.0 * t) * np.exp(-t / 3.0)
    errors = []
    for modes in (4, 16, 64):
        A, inputs = hippo.transition("legs", 2 * modes)
        a, b = discretize(A, inputs, t[1], "zoh")
        c, exact = np.zeros(2 * modes), []
        for now in u:
            c = a @ c + b * now
            exact.append(c[1])
        Lambda, inputs = s4d.poles("legs", modes)
        full = hippo.dplr("legs", 2 * modes)
        row = full.V[1, full.Lambda.imag > 0]
        one = s4d.from_diagonal(Lambda[None], inputs[None], row[None], np.zeros(1), t[1:2])
        y = jax.jit(s4d.apply)(one, u[:, None])[:, 0]
        errors.append(np.max(np.abs(y - np.array(exact))))
    assert errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discretization": "euler"}, "discretization: expected one of zoh, bilinear"),
        ({"Lambda": np.zeros(3)}, r"Lambda: expected shape \[H, M\], got \(3,\)"),
        ({"B": np.zeros((H, M + 1))}, r"B: expected shape \(3, 4\), got \(3, 5\)"),
        ({"D": np.zeros(H) * 1j}, "D: expected real"),
        ({"dt": np.array([0.1, 0.0, 0.1])}, "dt: expected positive steps, got 0.0"),
        ({"C": np.full((H, M), np.nan)}, "C: expected finite"),
    ],
)
def test_bad_systems_are_refused_by_name(change, message):
    names = ("Lambda", "B", "C", "D", "dt")
    arguments = dict(zip(names, numbers()[:5], strict=True)) | change
    with pytest.raises(ValueError, match=message):
        s4d.from_diagonal(**arguments)


def test_bad_signals_and_states_are_refused_by_name():
    one = system("zoh")
    with pytest.raises(ValueError, match=r"u: expected shape \[..., L, 3\]"):
        s4d.apply(one, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="L >= 1"):
        s4d.apply(one, np.zeros((0, 3)))
    with pytest.raises(ValueError, match="u: expected real"):
        s4d.apply(one, np.zeros((4, 3), complex))
    with pytest.raises(ValueError, match="length: expected at least 1"):
        s4d.kernel(one, 0)
    with pytest.raises(ValueError, match=r"state: expected shape \(1, 3, 4\)"):
        s4d.step(s4d.prepare(one), s4d.init_state(one, 2), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"state: expected shape \(1, 3, 4\)"):
        s4d.prefill(one, np.zeros((1, 5, 3)), s4d.init_state(one, 2))
    with pytest.raises(ValueError, match="init: expected one of lin, inv"):
        s4d.Config(channels=1, init="log")
    with pytest.raises(ValueError, match="dt_min, dt_max"):
        s4d.Config(channels=1, dt_min=0.0)


@pytest.mark.parametrize("rule", DISCRETIZATIONS)
def test_thousands_of_single_steps_end_where_the_convolution_does(rule):
    """Fast modes that last 10000 steps; 1e-5 is what rounding the state at every step leaves."""
    length, modes = 4000, 32
    Lambda = -1e-1 + 1j * s4d.poles("inv", modes)[0].imag
    rng = np.random.default_rng(2)
    C = rng.normal(size=(1, modes)) + 1j * rng.normal(size=(1, modes))
    ones, dt = np.ones((1, modes)), np.full(1, 1e-3)
    one = s4d.from_diagonal(Lambda[None], ones, C, np.zeros(1), dt, rule)
    u = jnp.asarray(rng.normal(size=(1, length, 1)), jnp.float32)

    @jax.jit
    def streamed(u):
        prepared = s4d.prepare(one)
        body = lambda x, now: s4d.step(prepared, x, now)  # noqa: E731
        return jax.lax.scan(body, s4d.init_state(one, 1), u.swapaxes(0, 1))[1].swapaxes(0, 1)

    near(streamed(u), np.asarray(jax.jit(s4d.apply)(one, u)), 2e-5)
