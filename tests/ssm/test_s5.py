"""S5 against a loop in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ssm as reference

from ssm import hippo, recurrence, s5
from ssm.diagonal import DISCRETIZATIONS

H, P, B, L = 3, 5, 2, 9
apply = jax.jit(s5.apply, static_argnames="method")


def numbers(length=L):
    rng = np.random.default_rng(1)
    Lambda = -rng.uniform(0.01, 1.0, P) + 1j * rng.uniform(0.0, 20.0, P)
    Lambda[0] = 0.0
    inputs = rng.normal(size=(P, H)) + 1j * rng.normal(size=(P, H))
    outputs = rng.normal(size=(H, P)) + 1j * rng.normal(size=(H, P))
    dt, D = np.array([1e-3, 0.01, 0.1, 0.5, 1.0]), rng.normal(size=H)
    return Lambda, inputs, outputs, D, dt, rng.normal(size=(B, length, H))


def near(value, expected, bound):
    np.testing.assert_allclose(value, expected, atol=bound * np.max(np.abs(expected)), rtol=0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", recurrence.METHODS)
@pytest.mark.parametrize("rule", DISCRETIZATIONS)
@pytest.mark.parametrize("conjugate", [True, False])
def test_outputs_equal_the_loop(method, rule, conjugate, precision):
    *parts, u = numbers()
    one = s5.from_diagonal(*parts, rule, conjugate)
    bound = 1e-12 if precision == "float64" else 5e-6
    y = apply(one, u, method=method)
    assert y.dtype.name == precision
    for i in range(B):
        expected = reference.multi_channel_output(*parts, u[i], rule, share=2.0 if conjugate else 1)
        near(y[i], expected[0], bound)
    near(apply(one, u[0], method=method), np.asarray(y[0]), bound)


@pytest.mark.parametrize("length", [1, 8, 9])
def test_kernel_is_the_response_to_an_impulse(length, x64):
    *parts, _ = numbers()
    kernel = jax.jit(s5.kernel, static_argnums=1)(s5.from_diagonal(*parts), length)
    assert kernel.shape == (H, H, length)
    for i in range(H):
        impulse = np.zeros((length, H))
        impulse[0, i] = 1.0
        y, _ = reference.multi_channel_output(*parts[:3], np.zeros(H), parts[4], impulse, "zoh")
        near(kernel[:, i], y.T, 1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", recurrence.METHODS)
@pytest.mark.parametrize("rule", DISCRETIZATIONS)
def test_irregular_steps(method, rule, x64):
    *parts, u = numbers()
    steps = np.random.default_rng(3).uniform(0.1, 3.0, (B, L))
    y = apply(s5.from_diagonal(*parts, rule), u, steps, method=method)
    for i in range(B):
        near(y[i], reference.multi_channel_output(*parts, u[i], rule, steps=steps[i])[0], 1e-12)
    shared = apply(s5.from_diagonal(*parts, rule), u, steps[0], method=method)
    near(shared[0], np.asarray(y[0]), 1e-12)


def test_two_directions_are_the_system_and_its_mirror_image(x64):
    *parts, u = numbers()
    back = parts[2][::-1] * 1j
    y = apply(s5.from_diagonal(*parts, backward=back), u)
    zero = np.zeros(H)
    for i in range(B):
        ahead, _ = reference.multi_channel_output(*parts, u[i], "zoh")
        mirrored, _ = reference.multi_channel_output(
            *parts[:2], back, zero, parts[4], u[i, ::-1], "zoh"
        )
        near(y[i], ahead + mirrored[::-1], 1e-12)


@pytest.mark.parametrize("lengths", [None, (5, 9), (0, 1)])
def test_prefill_gives_the_state_of_every_prefix(lengths, x64):
    *parts, u = numbers()
    rng = np.random.default_rng(5)
    start = rng.normal(size=(B, P)) + 1j * rng.normal(size=(B, P))
    state, y = jax.jit(s5.prefill)(
        s5.from_diagonal(*parts),
        u,
        (start.real, start.imag),
        None if lengths is None else np.array(lengths),
    )
    for i, count in enumerate(lengths or (L, L)):
        expected, states = reference.multi_channel_output(*parts, u[i], "zoh", start[i])
        near(y[i], expected, 1e-12)
        near(state[0][i] + 1j * state[1][i], np.vstack([start[i], states])[count], 1e-12)


def test_initial_system_is_a_random_one_around_legs(x64):
    """Poles of LegS in blocks; in the coordinates of HiPPO B has variance 1/H, C 1/(2 P)."""
    channels, modes, blocks = 48, 64, 2
    params = s5.mixer(s5.Config(channels, modes, blocks=blocks)).init(jax.random.key(3))
    block = hippo.dplr("legs", modes)
    upper = block.Lambda.imag > 0
    np.testing.assert_allclose(params["frequency"], np.tile(block.Lambda[upper].imag, 2))
    np.testing.assert_allclose(np.exp(params["log_decay"]), 0.5 - 1e-4, rtol=1e-6)
    V = block.V[:, upper]
    inputs = np.asarray(params["B"][:32, :, 0] + 1j * params["B"][:32, :, 1])
    outputs = np.asarray(params["C"][:, :32, 0] + 1j * params["C"][:, :32, 1])
    # 64 x 48 independent numbers: their mean square is good to 2.6 %.
    recovered = 2.0 * (V @ inputs).real
    np.testing.assert_allclose(np.mean(recovered**2), 1.0 / channels, rtol=0.1)
    recovered = 2.0 * (outputs @ V.conj().T).real
    np.testing.assert_allclose(np.mean(recovered**2), 0.5 / modes, rtol=0.1)


def test_bidirectional_mixers_refuse_to_stream():
    layer = s5.mixer(s5.Config(channels=H, modes=4, bidirectional=True))
    params = layer.init(jax.random.key(0))
    assert layer.apply(params, jnp.ones((L, H))).shape == (L, H)
    with pytest.raises(ValueError, match="backward: a bidirectional system"):
        layer.prepare(params)
    with pytest.raises(ValueError, match="backward: a bidirectional system"):
        layer.prefill(params, jnp.ones((B, L, H)), layer.init_state(B))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discretization": "euler"}, "discretization: expected one of zoh, bilinear"),
        ({"Lambda": np.zeros((2, 2))}, r"Lambda, D: expected shapes \[P\] and \[H\]"),
        ({"B": np.zeros((H, P))}, r"B: expected shape \(5, 3\), got \(3, 5\)"),
        ({"backward": np.zeros((P, H))}, r"backward: expected shape \(3, 5\)"),
        ({"dt": np.full(P, -0.1)}, "dt: expected positive steps, got -0.1"),
        ({"D": np.full(H, np.inf)}, "D: expected finite"),
    ],
)
def test_bad_systems_are_refused_by_name(change, message):
    names = ("Lambda", "B", "C", "D", "dt")
    arguments = dict(zip(names, numbers()[:5], strict=True)) | change
    with pytest.raises(ValueError, match=message):
        s5.from_diagonal(**arguments)


def test_bad_signals_steps_and_configurations_are_refused_by_name():
    one = s5.from_diagonal(*numbers()[:5])
    with pytest.raises(ValueError, match=r"u: expected shape \[..., L, 3\]"):
        s5.apply(one, np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"steps: .* of shape \(4,\) or \(2, 4\), got"):
        s5.apply(one, np.zeros((2, 4, 3)), np.ones(5))
    with pytest.raises(ValueError, match=r"state: expected shape \(1, 5\)"):
        s5.step(s5.prepare(one), s5.init_state(one, 2), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="modes: expected multiples of 2 blocks, got 5"):
        s5.Config(channels=1, modes=5, blocks=2)
    with pytest.raises(ValueError, match="method: expected one of auto, scan"):
        s5.Config(channels=1, method="loop")
    with pytest.raises(ValueError, match=r"steps: expected positive, finite durations, got -1\.0"):
        s5.apply(s5.from_diagonal(*numbers()[:5]), numbers()[-1], -np.ones(L))
    with pytest.raises(ValueError, match=r"u: expected shape \[B, 3\], got \(2, 4\)"):
        one = s5.from_diagonal(*numbers()[:5])
        s5.step(s5.prepare(one), s5.init_state(one, 2), jnp.zeros((2, 4)))


@pytest.mark.sample(1)
@pytest.mark.parametrize("rule", DISCRETIZATIONS)
@pytest.mark.parametrize("method", recurrence.METHODS)
def test_slow_modes_that_turn_fast_stay_on_their_circle(method, rule):
    """A multiplier rounded once turns them 1e-4 too far in 4096 steps.

    The scan is off by 2.4e-6 of the largest value as XLA optimises it.
    """
    length = 4096
    Lambda, ones = np.array([-1e-3 + 20j, -1e-2 + 3j]), np.ones((2, 1))
    one = s5.from_diagonal(Lambda, ones, ones.T, [0.0], [0.1, 0.1], rule)
    u = np.random.default_rng(0).normal(size=(length, 1)).astype(np.float32)
    rounded = np.asarray(one.Lambda[0], float) + 1j * np.asarray(one.Lambda[1], float)
    step = np.asarray(one.dt, float)
    parts = (rounded, ones, ones.T, np.zeros(1), step, u.astype(float), rule)
    expected, states = reference.multi_channel_output(*parts)
    scale = np.abs(expected).max()
    y = jax.jit(functools.partial(s5.apply, method=method))(one, u)
    np.testing.assert_allclose(y, expected, atol=3e-6 * scale)
    prepared = s5.prepare(one)
    body = lambda x, now: s5.step(prepared, x, now)  # noqa: E731
    last, y = jax.lax.scan(body, s5.init_state(one, 1), jnp.asarray(u)[:, None])
    np.testing.assert_allclose(y[:, 0], expected, atol=2e-6 * scale)
    np.testing.assert_allclose(last[0][0], states[-1].real, atol=5e-6 * np.abs(states).max())
