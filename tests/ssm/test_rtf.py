"""RTF: kernels, the numerator's correction, the recurrence, its state, and what is refused."""

import operator
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.test_util import check_grads

from ssm import direct_form, layers, rtf, stack
from tests.reference import ssm as reference
from tests.ssm.test_rational import coefficients

H = 4


def draw(seed, size, groups=H, radius=0.95):
    rng = np.random.default_rng(seed)
    a = np.stack([coefficients(rng, size, radius) for _ in range(groups)])
    return rng.normal(size=(H, size)), a, rng.normal(size=H)


def every(a):
    return np.repeat(a, H // len(a), axis=0)


def stepped(system, length):
    """The kernel by the recurrence, whatever the poles."""
    prepared = direct_form.step_of(rtf.exact(system))
    u = jnp.zeros((length, 1, H)).at[0].set(1.0)
    body = lambda x, now: rtf.step(prepared, x, now)  # noqa: E731
    return jax.lax.scan(body, rtf.init_state(system, 1), u)[1][:, 0].T


def near(value, exact, bound):
    np.testing.assert_allclose(value, exact, atol=bound * np.abs(exact).max(), rtol=0)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("size", "groups"), [(1, 4), (2, 4), (7, 1), (7, 2), (64, 4), (100, 2)])
def test_the_infinite_response_is_lfilter(size, groups, precision):
    b, a, d = draw(size, size, groups)
    one = rtf.from_coefficients(b, a, d)
    b, a, d = (np.asarray(part, float) for part in (one.numerator, one.denominator, one.direct))
    bound = 1e-11 if precision == "float64" else 1e-5
    for length in (1, 2, 33, 256):
        near(rtf.kernel(one, length), reference.fraction_response(b, every(a), d, length), bound)
    u = np.random.default_rng(1).normal(size=(2, 50, H))
    for i in range(2):
        near(rtf.apply(one, u)[i], reference.fraction_output(b, every(a), d, u[i]), bound)


@pytest.mark.sample(1)
@pytest.mark.parametrize("length", [32, 33])
def test_a_delay_of_zero_is_one_step_earlier(length, x64):
    b, a, d = draw(0, 5)
    late, early = (rtf.from_coefficients(b, a, d, delay=k) for k in (1, 0))
    k = rtf.kernel(late, length + 1)[:, 1:]
    near(rtf.kernel(early, length), k.at[:, 0].add(d), 1e-13)
    near(rtf.kernel(rtf.exact(early), length), rtf.kernel(early, length), 1e-13)
    near(rtf.kernel(rtf.truncated(early, length), length), rtf.kernel(early, length), 1e-12)
    near(stepped(early, length), rtf.kernel(early, length), 1e-12)


@pytest.mark.parametrize("groups", [1, H])
@pytest.mark.parametrize("length", [32, 33])
def test_the_stored_form_is_the_quotient_of_two_ffts(length, groups, x64):
    b, a, d = draw(3, 6, groups)
    one = rtf.from_coefficients(b, a, d, length)
    pad = lambda x, first: np.concatenate([np.full((len(x), 1), first), x], 1)  # noqa: E731
    quotient = np.fft.rfft(pad(b, 0.0), length) / np.fft.rfft(pad(every(a), 1.0), length)
    exact = np.fft.irfft(quotient, length)
    exact[:, 0] += d
    near(rtf.kernel(one, length), exact, 1e-13)
    near(rtf.kernel(one, 9), exact[:, :9], 1e-13)


@pytest.mark.parametrize("length", [32, 33])
def test_the_truncated_numerator_is_that_of_matrix_powers(length, x64):
    b, a, d = draw(4, 6, radius=1.0)
    plain = rtf.from_coefficients(b, a, d)
    one = rtf.truncated(plain, length)
    near(rtf.truncated(plain, length, method="squaring").numerator, one.numerator, 1e-12)
    exact = [reference.truncated_numerator(*row, length) for row in zip(b, a, strict=True)]
    near(one.numerator, exact, 1e-12)
    near(rtf.kernel(one, length), reference.fraction_response(b, a, d, length), 1e-12)
    again = rtf.exact(one)
    near(again.numerator, b, 1e-11)
    near(again.direct, d, 1e-11)


@pytest.mark.sample(1)
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("radius", [1.0, 0.96])
@pytest.mark.parametrize(("size", "length"), [(8, 64), (8, 33), (128, 1024), (1, 2), (5, 6)])
@pytest.mark.parametrize("bound", [1.0, 0.0])
def test_both_views_have_one_kernel(size, length, radius, delay, bound, precision):
    """With numerators drawn at random as b~ (xavier: often unstable; montel: stable)."""
    rng = np.random.default_rng(size + length)
    scale = size**-0.5 if bound else 1.0 / size
    b, a = rng.uniform(-scale, scale, (2, H, size))
    radius = radius if radius == 1.0 else 0.1 ** (1.0 / length)
    one = rtf.from_coefficients(b, a, np.ones(H), length, delay=delay, radius=radius)
    tolerance = {"float64": 1e-11, "float32": 2e-5 if bound else 1e-6}[precision]
    kernel = rtf.kernel(one, length)
    near(stepped(one, length), kernel, tolerance)
    near(rtf.kernel(rtf.truncated(rtf.exact(one), length, radius), length), kernel, tolerance)
    # What the period puts on index 0 is the value l = L of the recurrence.
    if delay:
        wrap = radius**length * np.asarray(rtf.kernel(rtf.exact(one), length + 1))[:, -1]
        near(kernel[:, 0] - 1.0, wrap, tolerance * np.abs(kernel).max() / np.abs(wrap).max())


def test_a_smaller_circle_keeps_poles_on_the_unit_circle_away(x64):
    """One pole on a root of unity: b~ = 0 / 0 there, but not on |z| = 1/r."""
    a = np.tile(np.poly([np.exp(0.25j * np.pi), np.exp(-0.25j * np.pi)]).real[1:], (H, 1))
    b, d = np.random.default_rng(0).normal(size=(H, 2)), np.zeros(H)
    exact = reference.fraction_response(b, a, d, 64)
    plain = rtf.from_coefficients(b, a, d)
    assert not np.allclose(rtf.kernel(rtf.truncated(plain, 64), 64), exact, atol=1e-2)
    near(rtf.kernel(rtf.truncated(plain, 64, 0.1 ** (1 / 64)), 64), exact, 1e-13)
    margins, bins = rtf.spectral_margin(plain, 64)
    assert np.all(margins < 1e-15) and np.all(bins == 8)
    with pytest.warns(UserWarning, match=r"denominator: row 0 nearly vanishes .* at bin 8 of 64"):
        rtf.from_coefficients(b, a, d, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rtf.from_coefficients(b, a, d, 64, radius=0.96)


def test_aliasing_is_measured(x64):
    b, a, d = draw(5, 4, 2, radius=0.9)
    exact = reference.fraction_response(b, every(a), d, 4000)
    plain = rtf.from_coefficients(b, a, d)
    report = rtf.aliasing(plain, 20)
    folded = exact[:, 1:3981].reshape(H, -1, 20).sum(axis=1)
    near(
        report.folded, np.abs(folded - exact[:, 1:21]).max(1) / np.abs(exact[:, :20]).max(1), 1e-10
    )
    near(report.wrap, exact[:, 20], 1e-11)
    near(rtf.aliasing(rtf.truncated(plain, 20)).wrap, exact[:, 20], 1e-11)
    size = np.abs(np.fft.rfft(np.concatenate([np.ones((H, 1)), every(a)], 1), 20))
    near(report.margin, size.min(1) / (1 + np.abs(every(a)).sum(1)), 1e-13)
    assert np.array_equal(report.bin, size.argmin(1))
    early = rtf.truncated(rtf.from_coefficients(b, a, d, delay=0), 20)
    assert not rtf.aliasing(early).wrap.any()
    shrunk = rtf.aliasing(rtf.truncated(plain, 20, 0.9))
    weights = 0.9 ** (20 * np.arange(1, 199))
    folded = (exact[:, 21:3981].reshape(H, -1, 20) * weights[:, None]).sum(axis=1)
    near(shrunk.folded, np.abs(folded).max(1) / np.abs(exact[:, :20]).max(1), 1e-9)
    with pytest.raises(ValueError, match="length: the system has its own, 20, got 30"):
        rtf.aliasing(early, 30)
    with pytest.raises(ValueError, match="length: expected more than 4, got 4"):
        rtf.aliasing(plain, 4)
    geometric = rtf.from_coefficients([[1.0]], [[-0.9]], [0.0], delay=0)
    near(rtf.aliasing(geometric, 8).folded, [0.9**8 / (1 - 0.9**8)], 1e-12)
    unstable = rtf.from_coefficients([[1.0]], [[-1.1]], [0.0])
    assert rtf.aliasing(unstable, 8).folded == np.inf


@pytest.mark.parametrize("stored", [None, 40])
@pytest.mark.parametrize("length", [1, 3, 40, 90])
def test_the_state_of_a_prompt_is_that_of_its_last_inputs_and_outputs(length, stored, x64):
    b, a, d = draw(6, 5, 2)
    one = rtf.from_coefficients(b, a, d)
    one = one if stored is None else rtf.truncated(one, stored)
    u = np.random.default_rng(2).normal(size=(3, length, H))
    lengths = np.array([0, length // 2, length])
    state, y = jax.jit(rtf.prefill)(one, u, None, lengths)
    for i, n in enumerate(lengths):
        near(y[i], reference.fraction_output(b, every(a), d, u[i]), 1e-11)
        rows = [reference.fraction_state(b[h], every(a)[h], u[i, :, h], n) for h in range(H)]
        np.testing.assert_allclose(state[i], rows, atol=1e-11)
    # SciPy's own state from past inputs and outputs.
    v = np.asarray(y[2] - d * u[2])
    newest = [v[::-1, 0][:5], u[2, ::-1, 0][:5]]
    zi = scipy.signal.lfiltic(np.append(0.0, b[0]), np.append(1.0, every(a)[0]), *newest)
    np.testing.assert_allclose(state[2, 0], zi, atol=1e-11)


@pytest.mark.slow
def test_a_state_before_the_prompt_counts_and_has_gradients(x64):
    b, a, d = draw(7, 5)
    one = rtf.from_coefficients(b, a, d)
    u = np.random.default_rng(3).normal(size=(1, 30, H))
    middle, first = rtf.prefill(one, u[:, :12])
    state, rest = rtf.prefill(one, u[:, 12:], middle)
    whole, y = rtf.prefill(one, u)
    near(np.concatenate([first, rest], 1), y, 1e-12)
    near(state, whole, 1e-12)
    rest = rtf.init_state(one, 1)
    np.testing.assert_array_equal(rtf.prefill(one, u, rest)[1], y)

    # At rest nothing of the state is computed, but what depends on it still has a derivative.
    @jax.jit
    def outputs(x, b, a, d):
        return rtf.prefill(rtf.from_coefficients(b, a, d), u, x)[1]

    for at in (rest, middle):
        check_grads(outputs, (at, b, a, d), 1, ["rev", "fwd"], 1e-6, 1e-6, 1e-6)


@pytest.mark.sample(1)
def test_decoding_after_a_long_prompt_is_the_whole_again(precision):
    b, a, d = draw(8, 16)
    one = rtf.truncated(rtf.from_coefficients(b, a, d), 2064)
    u = jnp.asarray(np.random.default_rng(4).normal(size=(2, 2064, H)), float)
    state, first = jax.jit(rtf.prefill)(one, u[:, :2000])
    prepared = rtf.prepare(one)
    body = lambda x, now: rtf.step(prepared, x, now)  # noqa: E731
    _, rest = jax.lax.scan(body, state, u[:, 2000:].swapaxes(0, 1))
    bound = 1e-12 if precision == "float64" else 1e-5
    near(jnp.concatenate([first, rest.swapaxes(0, 1)], 1), rtf.apply(one, u), bound)


def test_poles_on_the_circle_are_refused_in_recurrent_mode():
    ones = np.ones((1, 2))
    for a, modulus in (([-1.0, 0.0], "1,"), ([0.0, -1.44], "1.2,"), ([-2.0, 1.0], "1,")):
        one = rtf.from_coefficients(ones, [a], [0.0])
        for call in (rtf.prepare, lambda s: rtf.prefill(s, jnp.ones((1, 4, 1)))):
            with pytest.raises(ValueError, match=f"row 0 has a pole of modulus {modulus}.*damped"):
                call(one)
        rtf.prepare(rtf.damped(one, 0.8))
    rng = np.random.default_rng(0)
    for _ in range(200):  # the recursion agrees with the poles themselves
        one = rtf.from_coefficients(np.ones((1, 5)), rng.uniform(-1, 1, (1, 5)), [0.0])
        if np.abs(rtf.poles(one)).max() < 1:
            rtf.prepare(one)
        else:
            with pytest.raises(ValueError, match="on or outside the unit circle"):
                rtf.prepare(one)


def test_damping_multiplies_the_kernel(x64):
    b, a, d = draw(9, 4)
    for delay in (0, 1):
        one = rtf.from_coefficients(b, a, d, delay=delay)
        near(
            rtf.kernel(rtf.damped(one, 0.9), 30),
            rtf.kernel(one, 30) * 0.9 ** np.arange(30),
            1e-12,
        )


@pytest.mark.parametrize("numerator", ["truncated", "exact"])
def test_parameters_of_a_stack_are_damped_so_that_it_can_be_stepped(numerator, x64):
    config = rtf.Config(2, 16, 3, denominators=1, init="montel", numerator=numerator)
    model = stack.model(stack.Config(2, 2, inputs=1, layers=2), rtf.mixer(config))
    params = model.init(jax.random.key(0))
    mixers = params["layers"]["mixer"]
    mixers = {**mixers, "denominator": mixers["denominator"].at[1, 0, 0].set(-1.5)}
    new = jax.vmap(lambda p: rtf.damped_params(p, config, 0.6))(mixers)
    for layer in range(2):
        old, one = (
            rtf.system(jax.tree.map(operator.itemgetter(layer), part), config)
            for part in (mixers, new)
        )
        wanted = np.asarray(rtf.kernel(old, 16)) * 0.6 ** np.arange(16)
        np.testing.assert_allclose(rtf.kernel(one, 16), wanted, rtol=1e-5, atol=1e-6)
    ready = model.prepare(params | {"layers": params["layers"] | {"mixer": new}})
    assert np.isfinite(model.step(ready, model.init_state(1, 0), jnp.ones((1, 1)))[1]).all()
    for wrong in (
        rtf.Config(2, 16, 3, constraint="l1"),
        rtf.Config(2, 16, 3, bidirectional=True),
        rtf.Config(2, 16, 3, delay=0),
    ):
        with pytest.raises(ValueError, match="expected no constraint, one direction"):
            rtf.damped_params(rtf.init(jax.random.key(0), wrong), wrong, 0.9)


@pytest.mark.sample(1)
@pytest.mark.parametrize("config", [{"init": k} for k in rtf.INITS])
def test_the_l1_constraint_keeps_poles_inside(config):
    one = rtf.Config(H, 64, 8, constraint="l1", denominators=2, **config)
    params = rtf.init(jax.random.key(0), one)
    assert params["denominator"].shape == (2, 8) and params["slack"].shape == (2,)
    loud = {**params, "denominator": 100 * params["denominator"]}
    system = rtf.system(loud, one)
    assert np.abs(rtf.poles(system)).max() < 1
    tight = {**loud, "denominator": -jnp.abs(loud["denominator"]), "slack": jnp.zeros(2)}
    rtf.prepare(rtf.system(tight, one))
    a = np.asarray(loud["denominator"], float)
    size = (1 + 1e-6) * np.abs(a).sum(1) + np.abs(params["slack"]) + 1e-6
    np.testing.assert_allclose(system.denominator, a / size[:, None], rtol=1e-6)


def test_initial_values():
    def drawn(**options):
        return rtf.init(jax.random.key(1), rtf.Config(64, 64, 16, **options))

    zero = drawn()
    assert not np.any(zero["numerator"]) and not np.any(zero["denominator"])
    assert np.all(zero["direct"] == 1.0)
    for init, low, high in (
        ("xavier", -0.25, 0.25),
        ("montel", -1 / 16, 1 / 16),
        ("uniform", 0, 1),
    ):
        params = drawn(init=init)
        for name in ("numerator", "denominator"):
            assert low <= params[name].min() < low + 0.02 * (high - low)
            assert high >= params[name].max() > high - 0.02 * (high - low)


def test_the_zero_denominator_moves_after_the_numerator():
    layer = rtf.mixer(rtf.Config(H, 32, 4))
    params = layer.init(jax.random.key(0))
    u = jnp.asarray(np.random.default_rng(0).normal(size=(32, H)))
    loss = lambda p: jnp.sum((layer.apply(p, u) - jnp.roll(u, 3, 0)) ** 2)  # noqa: E731
    first = jax.grad(loss)(params)
    assert not np.any(first["denominator"]) and np.any(first["numerator"])
    params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, first)
    assert np.any(jax.grad(loss)(params)["denominator"])


@pytest.mark.parametrize("length", [7, 8])
def test_two_directions(length, x64):
    layer = rtf.mixer(rtf.Config(H, 8, 3, init="montel", bidirectional=True))
    params = layer.init(jax.random.key(0))
    u = np.random.default_rng(0).normal(size=(2, length, H))
    y = layer.apply(params, u)
    names = ("numerator", "denominator", "direct")
    both = ([p[name] for name in names] for p in (params, params["backward"]))
    kernels = [np.asarray(rtf.kernel(rtf.from_coefficients(*p, 8), length)) for p in both]
    exact = np.zeros_like(u)
    for i in range(length):
        for j in range(length):
            exact[:, i] += (kernels[0][:, i - j] if j <= i else kernels[1][:, j - i - 1]) * u[:, j]
    near(y, exact, 1e-12)
    for call in (layer.prepare, lambda p: layer.prefill(p, u, layer.init_state(2, 0))):
        with pytest.raises(ValueError, match="backward: a bidirectional system"):
            call(params)


def test_bad_arguments_are_named():
    b, a, d = draw(0, 4)
    good = {"numerator": b, "denominator": a, "direct": d}
    for change, message in (
        ({"numerator": b[0]}, r"numerator: expected shape \[H, N\], got \(4,\)"),
        ({"denominator": a[:3]}, r"denominator: expected shape \[G, 4\] with G a divisor of 4"),
        ({"denominator": a[:, :3]}, r"denominator: expected shape \[G, 4\]"),
        ({"direct": d[:2]}, r"direct: expected shape \(4,\), got \(2,\)"),
        ({"numerator": b + 0j}, "numerator: expected real numbers"),
        ({"denominator": a * np.nan}, "denominator: expected finite values"),
        ({"length": 4}, "length: expected more than the size of the state, 4, got 4"),
        ({"delay": 2}, "delay: expected 0 or 1, got 2"),
        ({"length": 9, "radius": 1.1}, r"radius: expected a number in \(0, 1\]"),
        ({"radius": 0.9}, "radius: .* 1 without a length, got 0.9"),
    ):
        with pytest.raises(ValueError, match=message):
            rtf.from_coefficients(**{**good, **change})
    one = rtf.from_coefficients(**good, length=9)
    for length in (0, 10):
        with pytest.raises(
            ValueError, match=f"length: expected at least 1 and at most the stored 9, got {length}"
        ):
            rtf.kernel(one, length)
    with pytest.raises(ValueError, match="system: expected exact coefficients"):
        rtf.truncated(one, 9)
    with pytest.raises(ValueError, match="u: expected at most the stored length of 9, got 10"):
        rtf.apply(one, np.ones((10, 4)))
    with pytest.raises(ValueError, match="u: expected real numbers"):
        rtf.apply(one, np.ones((5, 4), complex))
    with pytest.raises(ValueError, match=r"u: expected shape \[..., L, 4\]"):
        rtf.apply(one, np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"state: expected shape \(2, 4, 4\), got \(1, 4, 4\)"):
        rtf.prefill(one, np.ones((2, 5, 4)), rtf.init_state(one, 1))
    for change, message in (
        ({"size": 8}, "length: expected more than the size of the state, 8, got 8"),
        ({"channels": 0}, "channels: expected a whole number of at least 1"),
        ({"denominators": 2}, "denominators: expected a divisor of the 3 channels, got 2"),
        ({"init": "ones"}, "init: expected one of zeros, xavier, montel, uniform"),
        ({"constraint": "l2"}, "constraint: expected one of none, l1"),
        ({"numerator": "exact", "radius": 0.9}, "radius: an exact numerator has none"),
    ):
        with pytest.raises(ValueError, match=message):
            rtf.Config(**{"channels": 3, "length": 8, "size": 4, **change})


def test_traced_systems_are_not_looked_at():
    b, a, d = draw(1, 3)
    made = jax.jit(lambda b, a, d: rtf.kernel(rtf.from_coefficients(b, a, d, 16), 16))(b, a, d)
    near(made, rtf.kernel(rtf.from_coefficients(b, a, d, 16), 16), 1e-6)
    jax.jit(rtf.prepare)(rtf.from_coefficients(b, a * 0 - 2.0, d))


def test_the_linen_shell():
    layer = layers.RTF(rtf.Config(3, 16, 4, init="montel"))
    u = jnp.ones((2, 10, 3))
    variables = layer.init(jax.random.key(0), u)
    y = layer.apply(variables, u)
    prepared = layer.apply(variables, method="prepare")
    state = layer.init_state(2)
    for k in range(10):
        state, now = layer.step(prepared, state, u[:, k])
        near(now, y[:, k], 1e-5)
