"""Linear recurrences by every method against the plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ssm as reference

from ssm import recurrence, vandermonde

states = jax.jit(recurrence.states, static_argnames=("method", "chunk", "reverse"))
TOLERANCE = {"float32": 5e-6, "float64": 1e-13}


def problem(length, shape=(3,), complex_=True, varying=False, seed=0):
    generator = np.random.default_rng(seed)
    a_shape = (length, *shape) if varying else shape[-1:]
    a = generator.uniform(0.2, 1.0, a_shape)
    b = generator.normal(size=(length, *shape))
    start = generator.normal(size=shape)
    if complex_:
        a = a * np.exp(1j * generator.uniform(-np.pi, np.pi, a_shape))
        start = start + 1j * generator.normal(size=shape)
    return a, b, start


def cast(x, precision):
    kind = {"float32": np.complex64, "float64": np.complex128}[precision]
    return x.astype(kind if np.iscomplexobj(x) else precision)


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("method", recurrence.METHODS)
def test_every_method_is_the_loop(method, complex_, varying, precision):
    a, b, start = problem(37, (2, 3), complex_, varying)
    arguments = [cast(x, precision) for x in (a, b)]
    got = states(*arguments, start=cast(start, precision), method=method)
    expected = reference.recurrence(a, b, start)
    assert got.dtype == cast(expected, precision).dtype
    atol = TOLERANCE[precision] * np.abs(expected).max()
    np.testing.assert_allclose(got, expected, atol=atol, rtol=0)


@pytest.mark.parametrize(("length", "chunk"), [(1, 1), (7, 3), (8, 4), (9, 50), (40, 1)])
@pytest.mark.parametrize("varying", [False, True])
def test_chunks_of_any_size(length, chunk, varying):
    a, b, start = problem(length, varying=varying)
    got = states(a, b, start=start, method="chunked", chunk=chunk)
    expected = reference.recurrence(a, b, start)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("method", recurrence.METHODS)
def test_reversed_in_time(method, varying, x64):
    a, b, start = problem(11, varying=varying)
    got = states(a, b, start=start, method=method, reverse=True)
    turned = reference.recurrence(a[::-1] if varying else a, b[::-1], start)[::-1]
    np.testing.assert_allclose(got, turned, atol=1e-13, rtol=0)


@pytest.mark.parametrize("method", recurrence.METHODS)
def test_gradients_are_those_of_the_closed_form(method, x64):
    """x_L = sum_k a^(L-k) b_k + a^L x_0."""
    a, b, start = (jnp.asarray(x) for x in problem(9, complex_=False))

    def last(a, b, start):
        return jnp.sum(jnp.sin(recurrence.states(a, b, start=start, method=method)[-1]))

    def closed(a, b, start):
        fade = a ** jnp.arange(8, -1, -1)[:, None]
        return jnp.sum(jnp.sin(jnp.sum(fade * b, axis=0) + a**9 * start))

    got, expected = (jax.jit(jax.grad(f, (0, 1, 2)))(a, b, start) for f in (last, closed))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_state_handed_over_continues_the_recurrence(x64):
    a, b, start = problem(20)
    whole = states(a, b, start=start)
    first = states(a, b[:7], start=start, method="associative")
    second = states(a, b[7:], start=first[-1], method="chunked")
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": "fold"},
            "method: expected one of auto, scan, chunked, associative, got 'fold'",
        ),
        ({"b": np.ones((0, 3))}, r"b: expected inputs .* got shape \(0, 3\)"),
        ({"chunk": 4}, "chunk: expected at least 1 with the method chunked, got 4"),
        ({"method": "chunked", "chunk": 0}, "chunk: expected at least 1 .* got 0"),
        ({"a": np.ones(4)}, r"a, start: expected shapes that broadcast .*got \(4,\)"),
        ({"a": np.ones((4, 3))}, r"a, start: .*\(5, 3\), got \(4, 3\)"),
        ({"start": np.ones((2, 3))}, r"a, start: .*\(5, 3\), got \(3,\) and \(2, 3\)"),
    ],
)
def test_bad_input(change, message):
    arguments = {"a": np.ones(3), "b": np.ones((5, 3)), **change}
    with pytest.raises(ValueError, match=message):
        recurrence.states(**arguments)


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("length", "reverse"),
    [(1, False), (2, True), (127, False), (128, True), (129, False), (515, True), (1024, False)],
)
@pytest.mark.parametrize("method", recurrence.METHODS)
def test_logarithms_of_constant_multipliers(method, length, reverse, precision):
    rng = np.random.default_rng(length)
    turns, rate = rng.uniform(-0.5, 0.5, 3), -(10.0 ** rng.uniform(-5, -1, 3))
    logs = vandermonde.Modes(*(jnp.asarray(x, float) for x in (rate, turns, 0.0 * turns)))
    a = np.exp(np.asarray(logs.rate, float) + 2j * np.pi * np.asarray(logs.turns, float))
    b = rng.normal(size=(length, 2, 3)) + 1j * rng.normal(size=(length, 2, 3))
    start = rng.normal(size=(2, 3)) + 0j
    expected = reference.recurrence(a, b[::-1] if reverse else b, start)
    expected = expected[::-1] if reverse else expected
    bound = 1e-13 if precision == "float64" else 3e-6
    for chunk in (None, 7) if method == "chunked" else (None,):
        states = jax.jit(
            lambda b, start, chunk=chunk: recurrence.states(
                logs, b, start=start, method=method, reverse=reverse, chunk=chunk
            )
        )(b, start)
        np.testing.assert_allclose(states, expected, atol=bound * np.abs(expected).max())
