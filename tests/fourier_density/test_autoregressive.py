"""Networks, heads and densities of several dimensions."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from fourier_density import autoregressive, checks, entropy_model, heads, networks
from fourier_density.splines import Spline

KEY = jax.random.key(0)
HEADS = {
    "fourier": heads.Fourier(3, loc=0.4, scale=1.5),
    "tanh": heads.Fourier(2, base="tanh", floor=0.1),
    "mixture": heads.Mixture(3, loc=0.4, scale=1.5),
    "spline": heads.SplineFlow(4, loc=0.4, scale=1.5),
    "corrected": heads.Fourier(2, base=heads.Mixture(3, loc=0.4, scale=1.5)),
}


def noisy(params, size=0.3, seed=1):
    """Parameters away from their start, where outputs are zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [x + size * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


NETWORKS = {
    "masked": lambda: networks.masked_mlp(5, 3, hidden=9, layers=2),
    "waves": lambda: networks.masked_mlp(3, 2, hidden=6, features=networks.waves(2)),
    "one": lambda: networks.masked_mlp(1, 4, hidden=3),
    "window": lambda: networks.window_mlp((3, 4), 2, reach=2, hidden=8),
    "narrow": lambda: networks.window_mlp((2, 3), 2, reach=1, hidden=8, layers=0),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_see_only_what_comes_before(name):
    network = NETWORKS[name]()
    params, d = noisy(network.init(KEY)), network.dimensions
    x = jax.random.normal(jax.random.key(2), (d,))
    slopes = np.abs(jax.jacobian(lambda x: network.apply(params, x))(x)).sum(1)
    assert slopes.shape == (d, d)
    np.testing.assert_array_equal(np.triu(slopes), 0.0)
    if name in ("masked", "waves"):
        assert np.all(slopes[np.tril_indices(d, -1)] > 0)
    batch = network.apply(params, jnp.stack([x, x + 1.0]))
    assert batch.shape == (2, d, network.outputs)
    np.testing.assert_allclose(batch[0], network.apply(params, x), atol=1e-6)


def test_a_window_sees_the_pixels_around_and_above():
    network = networks.window_mlp((4, 5), 1, reach=1, hidden=16, layers=1)
    params = noisy(network.init(KEY))
    slopes = jax.jacobian(lambda x: network.apply(params, x)[:, 0])(jnp.ones(20))
    seen = lambda pixel: np.flatnonzero(np.abs(slopes[pixel]) > 0).tolist()  # noqa: E731
    assert seen(0) == [] and seen(1) == [0]
    assert seen(7) == [1, 2, 3, 6]  # row 1, column 2: three above, one to the left
    assert seen(14) == [8, 9, 13]  # the last of a row has nothing to its right


@pytest.mark.parametrize("name", HEADS)
def test_zeros_are_the_base(name, x64):
    head, y = HEADS[name], np.linspace(-4, 4, 9)
    found = np.asarray(head.density(jnp.zeros(head.outputs)).log_prob(y))
    if name in ("mixture", "corrected"):
        means = 0.4 + 1.5 * stats.norm.ppf([1 / 6, 0.5, 5 / 6])
        expected = np.log(stats.norm.pdf(y[:, None], means, 1.5 / 3**0.5).mean(1))
    elif name == "tanh":
        expected = stats.logistic(0.0, 0.5).logpdf(y)
    else:
        expected = stats.norm(0.4, 1.5).logpdf(y)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_masses_of_a_batch_of_heads_are_differences_of_distribution_functions(name, x64):
    """Also from infinity on, and with finite gradients there."""
    raw = 0.7 * jax.random.normal(jax.random.key(3), (4, 5, HEADS[name].outputs))
    edges = np.array([-np.inf, -2.0, -0.3, 0.1, 1.7, np.inf])

    def masses(raw):
        return jnp.exp(HEADS[name].density(raw).log_interval_prob(edges[:-1], edges[1:]))

    density = HEADS[name].density(raw)
    inner = [density.cdf(np.full(5, edge)) for edge in edges[1:-1]]
    below = np.stack([np.zeros((4, 5)), *inner, np.ones((4, 5))])
    expected = np.diff(below, axis=0)[np.arange(5), :, np.arange(5)].T
    np.testing.assert_allclose(masses(raw), expected, atol=1e-12)
    assert np.isfinite(jax.grad(lambda raw: jnp.log(masses(raw)).sum())(raw)).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("name", HEADS)
def test_masses_of_narrow_intervals_keep_their_digits(name, width):
    """Single against double precision, the ends of the intervals being the same numbers."""
    raw = np.asarray(0.8 * jax.random.normal(jax.random.key(4), (30, HEADS[name].outputs)))
    lower = np.linspace(-2.5, 3.5, 30, dtype=np.float32)
    upper = lower + np.float32(width)

    def log_masses(dtype):
        density = HEADS[name].density(jnp.asarray(raw, dtype))
        return density.log_interval_prob(*(jnp.asarray(end, dtype) for end in (lower, upper)))

    single = log_masses(np.float32)
    with jax.enable_x64(True):
        double = log_masses(np.float64)
    np.testing.assert_allclose(single, double, atol=3e-4)


def test_weights_that_underflow_have_gradients():
    head = heads.Mixture(2)
    raw = jnp.array([0.0, -200.0, 0.0, 0.0, 0.0, 0.0])
    for log in ("log_prob", "log_survival_function"):
        slope = jax.grad(lambda raw, log=log: getattr(head.density(raw), log)(0.3))(raw)
        assert np.isfinite(slope).all()


def test_a_component_within_an_interval_counts_in_full(x64):
    density = heads.Mixture(2, loc=0.0, scale=1.0).density(jnp.array([0.0, -4.0, 0, 0, 0, -9.0]))
    base = density.base
    expected = sum(
        w * np.diff(stats.norm.cdf([0.2, 1.5], m, s))[0]
        for w, m, s in zip(
            jax.nn.softmax(jnp.array([0, -4.0])), base.means, base.scales, strict=True
        )
    )
    np.testing.assert_allclose(density.log_interval_prob(0.2, 1.5), np.log(expected), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_densities_of_a_head_have_integral_one_and_a_distribution_function(name, x64):
    head = HEADS[name]
    raw = jax.random.normal(jax.random.key(3), (2, head.outputs))
    for one in raw:
        density = head.density(one)
        prob = jax.jit(density.prob)
        edges = np.linspace(-60, 60, 13)
        parts = [
            integrate.quad(lambda y: float(prob(y)), *ends, limit=200)[0]  # noqa: B023
            for ends in itertools.pairwise(edges)
        ]
        np.testing.assert_allclose(sum(parts), 1.0, atol=1e-6)
        np.testing.assert_allclose(np.cumsum(parts), density.cdf(edges[1:]), atol=1e-6)
        y = density.quantile(np.array([0.01, 0.3, 0.9]))
        np.testing.assert_allclose(density.cdf(y), [0.01, 0.3, 0.9], atol=1e-9)


def test_the_spline_is_monotone_smooth_and_inverted(x64):
    rng = np.random.default_rng(0)
    spline = Spline(*(jnp.asarray(rng.normal(size=(3, n))) for n in (6, 6, 5)), 3.0)
    u = np.linspace(-5, 5, 401)[:, None]
    value, log_slope = spline.forward(jnp.asarray(u))
    assert np.all(np.diff(value, axis=0) > 0)
    outside = np.abs(u[:, 0]) > 3
    np.testing.assert_array_equal(value[outside], np.broadcast_to(u, value.shape)[outside])
    np.testing.assert_allclose(spline.inverse(value), np.broadcast_to(u, value.shape), atol=1e-11)
    forward = lambda t: spline.forward(t)[0]  # noqa: E731
    slope = jax.jvp(forward, (jnp.broadcast_to(u, (401, 3)),), (jnp.ones((401, 3)),))[1]
    np.testing.assert_allclose(np.exp(log_slope), slope, rtol=1e-9)
    knots = np.asarray(spline._knots()[0])[:, 1:-1]  # slopes are continuous there
    for side in (-1e-9, 1e-9):
        near = jnp.exp(spline.forward(jnp.asarray(knots.T + side))[1])
        np.testing.assert_allclose(near.T, np.asarray(spline._knots()[2])[:, 1:-1], rtol=1e-6)


def made(head, dimensions=2, size=0.3):
    network = networks.masked_mlp(dimensions, head.outputs, hidden=8)
    model = autoregressive.model(network, head)
    return model, noisy(model.init(KEY), size)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", HEADS)
def test_the_density_of_two_dimensions_is_the_product_of_conditionals(name, x64):
    model, params = made(HEADS[name], size=0.1)
    x = np.array([[0.3, -0.5], [1.7, 0.2]])
    found = jax.jit(model.log_prob)(params, x)
    one = [model.densities(params, row) for row in x]
    expected = [float(d.log_prob(row).sum()) for d, row in zip(one, x, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    grid = np.linspace(-30, 30, 301)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    total = float(jnp.exp(jax.jit(model.log_prob)(params, points)).sum()) * 0.2**2
    assert abs(total - 1) < 1e-3


def test_samples_follow_the_density():
    model, params = made(heads.Fourier(2))
    x = np.asarray(jax.jit(lambda p, k: model.sample(p, seed=k, sample_shape=(4000,)))(params, KEY))
    assert x.shape == (4000, 2)
    # Uniform variables by both conditional distribution functions (Rosenblatt).
    u = np.asarray(jax.jit(lambda p, x: model.densities(p, x).cdf(x))(params, x))
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert abs(stats.spearmanr(u[:, 0], u[:, 1]).statistic) < 0.06


def test_levels_have_probabilities_that_add_up_to_one(x64):
    model, params = made(heads.Fourier(3, loc=1.0, scale=2.0))
    grid = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), -1).reshape(-1, 2)
    levels = {"low": 0.0, "high": 3.0}
    log = jax.jit(lambda v: model.log_level_prob(params, v, **levels))(grid)
    np.testing.assert_allclose(jnp.exp(log).sum(), 1.0, rtol=1e-10)

    quantise = lambda y: jnp.clip(entropy_model.quantise(y), 0, 3)  # noqa: E731
    x = model.sample(params, seed=KEY, sample_shape=(6000,), quantise=quantise)
    counts = np.bincount(np.asarray(x @ jnp.array([4.0, 1.0])).astype(int), minlength=16)
    expected = 6000 * np.exp(np.asarray(log))
    used = expected > 5
    assert (
        stats.chisquare(
            counts[used], expected[used] * counts[used].sum() / expected[used].sum()
        ).pvalue
        > 1e-3
    )


@pytest.mark.slow
def test_angles_beside_numbers(x64):
    pair = [heads.Fourier(2, "circle"), heads.Fourier(1)]
    network = networks.masked_mlp(2, max(h.outputs for h in pair), hidden=8)
    model = autoregressive.model(network, pair)
    params = noisy(model.init(KEY))
    angle, number = model.densities(params, np.array([0.3, 1.0]))
    expected = float(angle.log_prob(0.3) + number.log_prob(1.0))
    np.testing.assert_allclose(model.log_prob(params, np.array([0.3, 1.0])), expected)
    x = np.asarray(model.sample(params, seed=KEY, sample_shape=(500,)))
    assert np.abs(x[:, 0]).max() <= 1 and x.shape == (500, 2)
    assert stats.kstest(x[:, 0], lambda t: np.asarray(angle.cdf(t))).pvalue > 1e-3


def test_features_of_angles_are_periodic(x64):
    f = networks.waves(3, circular=True)
    np.testing.assert_allclose(f(jnp.array(0.4)), f(jnp.array(2.4)), atol=1e-12)
    assert networks.waves(3)(jnp.zeros((2, 5))).shape == (2, 5, 7)


@pytest.mark.slow
def test_training_learns_what_depends_on_what():
    """x_2 = x_1^2 + noise: the entropy is that of x_1 and of the noise."""
    import optax

    head = heads.Fourier(2)
    model = autoregressive.model(
        networks.masked_mlp(2, head.outputs, hidden=24, features=networks.waves(2)), head
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    x = jnp.asarray(np.hstack([x, x**2 + 0.3 * rng.normal(size=(2000, 1))]), jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 600))
    params = model.init(KEY)

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            batch = x[jax.random.randint(key, (200,), 0, 2000)]
            gradient = jax.grad(lambda p: -model.log_prob(p, batch).mean())(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(KEY, 600)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    exact = 2 * 0.5 * np.log(2 * np.pi * np.e) + np.log(0.3)
    assert float(-model.log_prob(params, x).mean()) > exact + 1.0
    assert float(-model.log_prob(train(params), x).mean()) < exact + 0.08


def test_dropout_needs_a_key():
    network = networks.masked_mlp(3, 2, hidden=8, dropout=0.5)
    params, x = noisy(network.init(KEY)), jnp.ones(3)
    still = network.apply(params, x)
    np.testing.assert_array_equal(still, network.apply(params, x))
    assert not np.allclose(still, network.apply(params, x, jax.random.key(5)))


@pytest.mark.parametrize(
    "error, call",
    [
        ("hidden", lambda: networks.masked_mlp(9, 1, hidden=4)),
        ("dimensions", lambda: networks.masked_mlp(0, 1)),
        ("dropout", lambda: networks.masked_mlp(2, 1, dropout=1.0)),
        ("reach", lambda: networks.window_mlp((2, 2), 1, reach=0)),
        ("order", lambda: heads.Fourier(-1)),
        ("order", lambda: checks.whole("order", 1.5, 0)),
        ("support", lambda: heads.Fourier(1, "line")),
        ("base", lambda: heads.Fourier(1, base="cauchy")),
        ("components", lambda: heads.Mixture(0)),
        ("bins", lambda: heads.SplineFlow(1)),
        ("bins", lambda: heads.SplineFlow(1200)),
        ("bound", lambda: heads.SplineFlow(4, bound=np.inf)),
        ("support real", lambda: heads.Fourier(2, "circle", heads.Mixture(2))),
        ("given to it", lambda: heads.Fourier(2, base=heads.Mixture(2), scale=2.0)),
        ("loc, scale", lambda: heads.Mixture(2, scale=0.0)),
        (
            "network: expected 10 outputs, got 9",
            lambda: autoregressive.model(networks.masked_mlp(2, 9), heads.Fourier(3)),
        ),
        (
            "network: expected a Network, got Fourier",
            lambda: inspect.unwrap(autoregressive.model)(
                heads.Fourier(3), networks.masked_mlp(2, 5)
            ),
        ),
        (
            "head: expected one, or 3",
            lambda: autoregressive.model(networks.masked_mlp(3, 10), [heads.Fourier(3)] * 2),
        ),
        (
            "x: expected",
            lambda: made(heads.Fourier(1))[0].log_prob(made(heads.Fourier(1))[1], np.zeros(3)),
        ),
        (
            "params: expected what `init` makes, got dict",
            lambda: made(heads.Fourier(1))[0].log_prob({}, np.zeros(2)),
        ),
        (
            "params: expected what `init` makes, got PRNGKeyArray",
            lambda: inspect.unwrap(made(heads.Fourier(1))[0].sample)(
                jax.random.key(0), seed=jax.random.key(0)
            ),
        ),
        (
            "x: expected numbers, got NaN",
            lambda: made(heads.Fourier(1))[0].log_prob(
                made(heads.Fourier(1))[1], np.array([np.nan, 0.0])
            ),
        ),
    ],
)
def test_bad_arguments_are_named(error, call):
    with pytest.raises(ValueError, match=error):
        call()
