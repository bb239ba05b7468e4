"""The promise of every mixer: one set of parameters, the same values and gradients in each view."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from ssm import dss, s4, s4d, s5
from ssm.diagonal import DISCRETIZATIONS

H, B, LONGEST = 3, 2, 12
MIXERS = {f"s4-{m}": s4.mixer(s4.Config(H, LONGEST, 5 + (m != "fout"), m)) for m in s4.MEASURES}
MIXERS |= {
    f"s4d-{init}-{rule}": s4d.mixer(s4d.Config(H, 4, init, rule))
    for init, rule in zip(s4d.INITS, 3 * DISCRETIZATIONS, strict=True)
}
MIXERS |= {f"dss-{n}": dss.mixer(dss.Config(H, LONGEST, 4, n)) for n in dss.NORMALIZATIONS}
MIXERS |= {
    f"s5-{rule}-{method}": s5.mixer(s5.Config(H, 4, blocks, rule, method=method))
    for rule, method, blocks in (
        ("zoh", "scan", 1),
        ("bilinear", "chunked", 2),
        ("zoh", "associative", 2),
    )
}


@functools.cache
def programs(name):
    """Outputs, and gradients of a scalar of them, by the whole signal and step by step."""
    layer = MIXERS[name]

    def whole(params, u):
        return layer.apply(params, u)

    def streamed(params, u):
        half = u.shape[1] // 2
        state, first = layer.prefill(params, u[:, :half], layer.init_state(B, 0, u.dtype))
        prepared = layer.prepare(params)
        body = lambda x, now: layer.step(prepared, x, now)  # noqa: E731
        _, rest = jax.lax.scan(body, state, u[:, half:].swapaxes(0, 1))
        return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1)

    def both(view):
        def scalar(params, u, weights):
            y = view(params, u)
            return jnp.sum(weights * y), y

        return jax.jit(jax.grad(scalar, (0, 1), has_aux=True))

    return both(whole), both(streamed)


def near(value, expected, bound, scale=None):
    scale = np.max(np.abs(expected)) if scale is None else scale
    np.testing.assert_allclose(value, expected, atol=bound * scale, rtol=0)


def agree(name, seed, length, bound):
    rng = np.random.default_rng(seed)
    params = MIXERS[name].init(jax.random.key(seed))
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), params)
    u = jnp.asarray(rng.normal(size=(B, length, H)), float)
    weights = jnp.asarray(rng.normal(size=u.shape), float)
    (ours, y), (other, z) = (f(params, u, weights) for f in programs(name))
    near(z, np.asarray(y), bound)
    # Some sums over steps cancel: errors are relative to the largest entry of the whole gradient.
    scale = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(ours))
    for first, second in zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True):
        assert np.isfinite(first).all() and np.any(first != 0)
        near(second, np.asarray(first), bound, scale)


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST])
@pytest.mark.parametrize("name", MIXERS)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=8)
def test_views_agree_in_values_and_gradients(name, length, seed):
    with jax.enable_x64(True):
        agree(name, seed, length, 1e-10)


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST])
@pytest.mark.parametrize("name", MIXERS)
def test_views_agree_in_single_precision(name, length):
    for seed in range(8):
        agree(name, seed, length, 1e-5)


@pytest.mark.parametrize("name", MIXERS)
def test_prefill_gives_the_state_of_every_prefix(name, x64):
    layer = MIXERS[name]
    params = layer.init(jax.random.key(1))
    u = jnp.asarray(np.random.default_rng(0).normal(size=(5, LONGEST, H)))
    lengths = np.array([0, 1, 7, 11, 12])
    middle, _ = jax.jit(layer.prefill)(params, u[:, ::-1], layer.init_state(5, 0, u.dtype))
    state, _ = jax.jit(layer.prefill)(params, u, middle, lengths)
    prepared = layer.prepare(params)
    step = jax.jit(lambda x, now: layer.step(prepared, x, now)[0])
    x, every = middle, [middle]
    for k in range(LONGEST):
        x = step(x, u[:, k])
        every.append(x)
    for part in (0, 1):
        expected = np.stack([every[n][part][i] for i, n in enumerate(lengths)])
        near(state[part], expected, 1e-11)


def systems():
    """Kernels of poles from hardly decaying over zero to growing, and steps from 1e-4 to 1."""
    rng = np.random.default_rng(2)
    dt = np.array([1e-4, 1e-2, 1.0])
    # Radii of exp(dt lambda): 0.9, 1, 1.001 and one pole at zero itself.
    rate = np.log([0.9, 1.0, 1.001, 1.0]) / dt[:, None]
    Lambda = rate + 1j * np.array([0.3, 1.0, 2.0, 0.0]) / dt[:, None]
    draw = lambda *s: rng.normal(size=s) + 1j * rng.normal(size=s)  # noqa: E731
    one = (draw(3, 4), draw(3, 4), np.zeros(3), dt)
    for rule in DISCRETIZATIONS:
        yield f"s4d-{rule}", s4d.kernel, s4d.from_diagonal(Lambda, *one, rule)
        rows = (draw(4, 3), draw(3, 4), np.zeros(3), np.full(4, 1e-2))
        yield f"s5-{rule}", s5.kernel, s5.from_diagonal(Lambda[1], *rows, rule)
    yield "dss-exp", dss.kernel, dss.from_weights(Lambda, *one[1:])
    yield "dss-softmax", dss.kernel, dss.from_weights(Lambda[:, :3], one[1][:, :3], *one[2:], 31)
    low_rank = 0.1 * draw(3, 1, 4)
    yield "s4", s4.kernel, s4.from_dplr(Lambda, low_rank, *one)


@pytest.mark.parametrize("length", [30, 31])
@pytest.mark.parametrize("index", range(7))
def test_gradients_at_the_edge_of_stability_are_finite_and_right(index, length, x64):
    _, kernel, one = list(systems())[index]
    scale = float(jnp.max(jnp.abs(kernel(one, length))))
    assert np.isfinite(scale)
    values = jax.jit(lambda s: kernel(s, length) / scale)
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(values(s) ** 2)))(one)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    # Relative changes: a difference needs comparable sizes of all numbers.
    leaves, tree = jax.tree.flatten(one)

    def moved(factors):
        return values(
            jax.tree.unflatten(tree, [x * f for x, f in zip(leaves, factors, strict=True)])
        )

    check_grads(moved, ([jnp.ones_like(x) for x in leaves],), 1, ["rev"], 1e-5, 1e-5, 1e-6)
