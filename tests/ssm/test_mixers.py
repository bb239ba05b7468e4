"""The promise of every mixer: one set of parameters, the same values and gradients in each view."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from ssm import dss, gated, rtf, s4, s4d, s5, selective, ssd
from ssm.diagonal import DISCRETIZATIONS

H, B, LONGEST = 3, 2, 12
MIXERS = {
    f"s4-{m}": s4.mixer(s4.Config(H, LONGEST, 5 + (m != "fout"), measure=m)) for m in s4.MEASURES
}
MIXERS |= {
    f"s4d-{init}-{rule}": s4d.mixer(s4d.Config(H, 4, init=init, discretization=rule))
    for init, rule in zip(s4d.INITS, 3 * DISCRETIZATIONS, strict=True)
}
MIXERS |= {
    f"dss-{n}": dss.mixer(dss.Config(H, LONGEST, 4, normalization=n)) for n in dss.NORMALIZATIONS
}
MIXERS |= {
    f"s5-{rule}-{method}": s5.mixer(
        s5.Config(H, 4, blocks=blocks, discretization=rule, method=method)
    )
    for rule, method, blocks in (
        ("zoh", "scan", 1),
        ("bilinear", "chunked", 2),
        ("zoh", "associative", 2),
    )
}
MIXERS |= {
    f"rtf-{init}-{constraint}": rtf.mixer(
        rtf.Config(H, LONGEST, 4, init=init, constraint=constraint, **options)
    )
    for init, constraint, options in (
        ("zeros", "l1", {}),
        ("montel", "none", {"denominators": 1, "delay": 0}),
        ("uniform", "l1", {"radius": 0.9}),
        ("montel", "l1", {"numerator": "exact"}),
    )
}
MIXERS |= {
    "mamba-scan": selective.mixer(selective.Config(H, states=4, chunk=5, width=3, method="scan")),
    "mamba-associative": selective.mixer(
        selective.Config(H, expand=1, states=2, rank=2, method="associative")
    ),
    "mamba2": ssd.mixer(ssd.Config(H, expand=4, head_dim=3, states=2, groups=2, chunk=5)),
    "mamba2-one": ssd.mixer(ssd.Config(H, head_dim=2, states=3, width=2)),
    "gated": gated.mixer(gated.Config(H, LONGEST, 4)),
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


@pytest.mark.sample(
    *("s4-legs-12", "s4d-legs-zoh-11", "dss-softmax-12", "s5-zoh-scan-11", "rtf-zeros-l1-12"),
    *("mamba-scan-11", "mamba2-12", "gated-11"),
)
@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST])
@pytest.mark.parametrize("name", MIXERS)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=8)
def test_views_agree_in_values_and_gradients(name, length, seed):
    with jax.enable_x64(True):
        agree(name, seed, length, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length"), [(name, LONGEST - i % 2) for i, name in enumerate(MIXERS)]
)
def test_views_agree_in_single_precision(name, length):
    """Odd lengths and even ones in turn: double precision, above, has both."""
    for seed in range(8):
        agree(name, seed, length, 1e-5)


@pytest.mark.sample("s4-legs", "s5-zoh-scan", "rtf-zeros-l1", "mamba2")
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
    for part, found in enumerate(jax.tree.leaves(state)):
        leaves = [jax.tree.leaves(x)[part] for x in every]
        near(found, np.stack([leaves[n][i] for i, n in enumerate(lengths)]), 1e-11)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", MIXERS)
def test_every_initial_parameter_trains(name):
    """At the values of `init`, not next to them: a clip there would stop it for good."""
    layer = MIXERS[name]
    params = layer.init(jax.random.key(0))
    u = jnp.asarray(np.random.default_rng(0).normal(size=(B, LONGEST, H)), float)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(layer.apply(p, u) ** 2)))(params)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        key = path[-1].key
        silent = name.startswith("rtf-zeros") and key in ("denominator", "slack")  # see test_rtf
        assert np.isfinite(leaf).all() and np.any(leaf != 0) != silent, key
    for key in ("log_decay", "decay", "log_dt"):
        assert np.all(gradient.get(key, 1.0) != 0), key


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", MIXERS)
def test_narrow_parameters_states_and_signals_are_widened(name):
    layer = MIXERS[name]

    def views(params, u):
        state, read = layer.prefill(params, u, layer.init_state(B, 0, jnp.bfloat16))
        return read, layer.apply(params, u), layer.step(layer.prepare(params), state, u[:, 0])[1]

    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), layer.init(jax.random.key(0)))
    found = jax.eval_shape(views, params, jnp.ones((B, 5, H), jnp.bfloat16))
    assert [y.dtype for y in found] == ["float32"] * 3


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", MIXERS)
def test_default_states_have_the_default_precision(name, x64):
    layer = MIXERS[name]

    def views(params, u):
        prepared = layer.prepare(params)
        body = lambda x, now: layer.step(prepared, x, now)  # noqa: E731
        _, y = jax.lax.scan(body, layer.init_state(B, 0), u)
        single = layer.init_state(B, 0, jnp.float32)
        return y, layer.prefill(params, u.swapaxes(0, 1), single)[1]

    found = jax.eval_shape(views, layer.init(jax.random.key(0)), jnp.ones((5, B, H)))
    assert [y.dtype for y in found] == ["float64"] * 2


@pytest.mark.parametrize("name", MIXERS)
def test_single_precision_stays_single_where_double_is_on(name):
    layer = MIXERS[name]
    params = layer.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}

    def views(params, u):
        state, read = layer.prefill(params, u, layer.init_state(B, 0, jnp.float32))
        body = functools.partial(layer.step, layer.prepare(params))
        return read, layer.apply(params, u), jax.lax.scan(body, state, u.swapaxes(0, 1))[1]

    with jax.enable_x64(True):
        found = jax.eval_shape(views, params, jnp.ones((B, 5, H), jnp.float32))
    assert [y.dtype for y in found] == ["float32"] * 3


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16])
@pytest.mark.parametrize("module", [s4, s4d, dss, rtf])
def test_lengths_of_small_types_are_counted_beyond_their_range(module, kind):
    sizes = {s4: {"length": 8, "size": 2}, dss: {"length": 8, "modes": 1}, s4d: {"modes": 1}}
    layer = module.mixer(module.Config(1, **sizes.get(module, {"length": 8, "size": 2})))
    params, u = layer.init(jax.random.key(0)), jnp.ones((3, 300, 1))
    prefill = jax.jit(layer.prefill)
    lengths = np.array([0, 5, 120])
    expected, _ = prefill(params, u, layer.init_state(3, 0), lengths)
    found, _ = prefill(params, u, layer.init_state(3, 0), lengths.astype(kind))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", MIXERS)
def test_what_does_not_count_may_be_no_number(name):
    layer, lengths = MIXERS[name], np.array([3])
    params, u = layer.init(jax.random.key(0)), jnp.ones((1, 6, H))
    prefill = jax.jit(layer.prefill)
    start = layer.init_state(1, 0)
    expected, y = prefill(params, u.at[:, 3:].set(0.0), start, lengths)
    found, z = prefill(params, u.at[:, 3:].set(jnp.nan), start, lengths)
    jax.tree.map(np.testing.assert_array_equal, (found, z[:, :3]), (expected, y[:, :3]))


@pytest.mark.sample(7)
@pytest.mark.parametrize("name", MIXERS)
def test_bad_prefixes_are_refused_by_name(name):
    layer = MIXERS[name]
    params, state, u = layer.init(jax.random.key(0)), layer.init_state(B, 0), jnp.ones((B, 5, H))
    for lengths, message in (
        (np.array([1.0, 2.0]), "lengths: expected 2 whole numbers, got float"),
        (np.array(3), r"lengths: expected 2 whole numbers, got int\d+ \(\)"),
        (np.array([1, 2, 3]), r"lengths: expected 2 whole numbers, got int\d+ \(3,\)"),
        (np.array([1, 6]), r"lengths: expected 0 to 5, got \[1, 6\]"),
        (np.array([-1, 5]), r"lengths: expected 0 to 5, got \[-1, 5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.prefill(params, u, state, lengths)
    for wrong in (u[0], u[None]):
        with pytest.raises(ValueError, match=r"u: expected shape \[B, L, 3\], got"):
            layer.prefill(params, wrong, state)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", MIXERS)
def test_bad_steps_are_refused_by_name(name):
    layer = MIXERS[name]
    prepared, state = layer.prepare(layer.init(jax.random.key(0))), layer.init_state(B, 0)
    for wrong, message in (
        (jnp.ones((B, H), complex), "u: expected real numbers, got complex"),
        (jnp.ones((B, H + 1)), r"u: expected shape \[B, 3\], got \(2, 4\)"),
        (jnp.ones((B + 1, H)), r"state: expected shape \(3, .*, got \(2, "),
    ):
        with pytest.raises(ValueError, match=message):
            layer.step(prepared, state, wrong)


@pytest.mark.parametrize("module", [s4d, s5])
def test_a_bilinear_step_that_does_not_exist_is_refused(module):
    one = (np.ones((1, 1)), np.ones((1, 1)), np.zeros(1), [0.1], "bilinear")
    shape = (1, 1) if module is s4d else 1
    with pytest.raises(ValueError, match="Lambda: a bilinear step divides by"):
        module.from_diagonal(np.full(shape, 20.0), *one)
    rounded = (*one[:3], [0.3], "bilinear")  # a product of 2 in single precision, not in double
    assert np.float32(6.6666667) * np.float32(0.3) == 2 != 6.6666667 * 0.3
    with pytest.raises(ValueError, match="Lambda: a bilinear step divides by"):
        module.from_diagonal(np.full(shape, 6.6666667), *rounded)


def test_values_are_checked_as_they_are_stored():
    one = (np.ones((1, 1)), np.ones((1, 1)), np.zeros(1))
    with pytest.raises(ValueError, match="Lambda: expected finite values"):
        s4d.from_diagonal([[-1e39]], *one, [0.1])
    with pytest.raises(ValueError, match=r"dt: expected positive steps, got 0\.0"):
        s4d.from_diagonal([[-1.0]], *one, [1e-50])
    with pytest.raises(ValueError, match="numerator: expected finite values"):
        rtf.from_coefficients([[1e39]], [[0.5]], [0.0])
    with pytest.raises(ValueError, match="softmax has no pole at zero"):
        dss.from_weights([[-1e-50]], [[1.0]], [0.0], [0.1], length=8)


@pytest.mark.sample(1)
@pytest.mark.parametrize("module", [s4d, s5])
def test_whole_numbers_have_the_default_precision(module, x64):
    Lambda = [[-1]] if module is s4d else [-1]
    one = module.from_diagonal(Lambda, [[1]], [[1]], [0], [1])
    assert module.kernel(one, 4).dtype == "float64"
    mixed = module.from_diagonal([[-1.0]] if module is s4d else [-1.0], [[1]], [[1]], [0], [1])
    prepared = module.prepare(mixed)
    body = lambda x, now: module.step(prepared, x, now)  # noqa: E731
    _, y = jax.lax.scan(body, module.init_state(mixed, 1), jnp.ones((3, 1, 1)))
    assert y.dtype == "float64"


@pytest.mark.sample(1)
@pytest.mark.parametrize("module", [s4d, s5])
def test_a_bilinear_pole_that_is_gone_after_a_step(module, precision):
    """Z = -1, a = 0: the logarithm of a is infinite, the kernel is not."""
    Lambda, ones, zero = np.array([[-2.0, -1.0]]), np.ones((1, 2)), np.zeros(1)
    if module is s4d:
        one = s4d.from_diagonal(Lambda, ones, 0.5 * ones, zero, [1.0], "bilinear")
    else:
        one = s5.from_diagonal(Lambda[0], ones.T, 0.5 * ones, zero, [1.0, 1.0], "bilinear")
    kernel = jax.jit(module.kernel, static_argnums=1)
    expected = 0.5 * np.eye(1, 4)[0] + (1 / 1.5) * (0.5 / 1.5) ** np.arange(4)
    near(np.ravel(kernel(one, 4)), expected, 1e-6)
    impulse = jnp.asarray(np.eye(1, 4).T)
    near(np.ravel(jax.jit(module.apply)(one, impulse)), expected, 1e-6)
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(module.kernel(s, 4))))(one)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


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
    radii = ((0.0, 0.9), (0.9, 1.0), (1.0, 1.001))
    turns = np.exp(1j * np.array([0.3, 2.0]))
    pairs = [np.concatenate([r * turns, r * turns.conj()]) for r in radii]
    a = np.array([np.poly(row).real[1:] for row in pairs])
    for length in (None, 31):
        b, d = rng.normal(size=(3, 4)), rng.normal(size=3)
        yield "rtf", rtf.kernel, rtf.from_coefficients(b, a, d, length)


@pytest.mark.sample(1)
@pytest.mark.parametrize("length", [30, 31])
@pytest.mark.parametrize("index", range(9))
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


@pytest.mark.parametrize("module", [dss, gated, rtf, s4, s4d, s5, selective, ssd])
def test_the_configuration_of_another_mixer_is_refused_by_name(module):
    other = s5.Config(4) if module is s4d else s4d.Config(4)
    name, kind = module.__name__.replace(".", r"\."), type(other).__module__
    with pytest.raises(ValueError, match=rf"config: expected {name}.*Config, got {kind}.Config"):
        inspect.unwrap(module.mixer)(other)
