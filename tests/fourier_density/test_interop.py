"""One object as a distribution of distrax's kind, and in NumPyro's models."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS
from scipy import stats

from fourier_density import PeriodicDensity, RealLineDensity, ReflectedDensity
from fourier_density.interop import to_numpyro

A = np.array([1.0, 0.4 - 0.3j, 0.2j])
KEY = jax.random.key(0)
KINDS = {
    "circle": lambda a=A: PeriodicDensity(a, 0.01),
    "reflected": lambda a=A: ReflectedDensity(np.real(a), 0.01),
    "line": lambda a=A: RealLineDensity(a, 0.3, 1.2, "normal", 0.01),
}
BATCH = np.stack([A, np.roll(A, 1), A[::-1]])


# What distrax's own tests ask of a distribution: shapes, sampling, agreement of the methods.
@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)])
def test_shapes(kind, sample_shape):
    for coefficients, batch in ((A, ()), (BATCH, (3,))):
        density = KINDS[kind](coefficients)
        assert density.batch_shape == batch and density.event_shape == ()
        x, log = density.sample_and_log_prob(seed=KEY, sample_shape=sample_shape)
        assert x.shape == log.shape == (*sample_shape, *batch)
        np.testing.assert_allclose(log, density.log_prob(x), rtol=1e-5)
        again = density.sample(seed=KEY, sample_shape=sample_shape)
        np.testing.assert_array_equal(x, again)
        for name in ("mean", "variance", "entropy", "mode"):
            assert getattr(density, name)().shape == batch


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
def test_methods_agree(kind, x64):
    density = KINDS[kind]()
    x = np.array([-0.7, 0.1, 0.8])
    np.testing.assert_allclose(jnp.exp(density.log_prob(x)), density.prob(x), rtol=1e-12)
    np.testing.assert_allclose(jnp.exp(density.log_cdf(x)), density.cdf(x), rtol=1e-12)
    np.testing.assert_allclose(density.cdf(x) + density.survival_function(x), 1.0, rtol=1e-12)
    np.testing.assert_allclose(density.quantile(density.cdf(x)), x, atol=1e-9)
    np.testing.assert_allclose(jax.vmap(jax.grad(density.cdf))(x), density.prob(x), rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_transformations(kind):
    x = jnp.array([0.1, -0.4, 0.7])
    batch = KINDS[kind](BATCH)
    plain = batch.log_prob(x)
    np.testing.assert_allclose(jax.jit(lambda d, x: d.log_prob(x))(batch, x), plain, rtol=1e-5)
    mapped = jax.vmap(lambda d, x: d.log_prob(x))(batch, x)
    np.testing.assert_allclose(mapped, plain, rtol=1e-5)
    gradient = jax.grad(lambda d: d.log_prob(x).sum())(batch)
    assert jax.tree.structure(gradient) == jax.tree.structure(batch)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    _, scanned = jax.lax.scan(lambda c, dx: (c, dx[0].log_prob(dx[1])), None, (batch, x))
    np.testing.assert_allclose(scanned, plain, rtol=1e-5)
    unpickled = pickle.loads(pickle.dumps(batch))
    np.testing.assert_array_equal(unpickled.log_prob(x), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_points_of_every_precision(kind):
    density, exact = KINDS[kind](), np.array([0.25, -0.5, 0.875])  # exact in bfloat16
    expected = density.log_prob(jnp.asarray(exact))
    for dtype in ("bfloat16", "float16", "float32", "float64", "int32"):
        points = np.zeros(3) if dtype == "int32" else exact
        wanted = density.log_prob(jnp.zeros(3)) if dtype == "int32" else expected
        found = density.log_prob(jnp.asarray(points, dtype if dtype != "float64" else None))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert found.dtype == jnp.float32


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_says_what_the_density_says(kind):
    density = KINDS[kind](BATCH)
    other = to_numpyro(density)
    x = jnp.array([0.1, -0.4, 0.7])
    assert (other.batch_shape, other.event_shape) == ((3,), ())
    np.testing.assert_array_equal(other.log_prob(x), density.log_prob(x))
    np.testing.assert_array_equal(other.cdf(x), density.cdf(x))
    np.testing.assert_array_equal(other.icdf(x**2), density.quantile(x**2))
    np.testing.assert_array_equal(other.mean, density.mean())
    np.testing.assert_array_equal(other.variance, density.variance())
    np.testing.assert_array_equal(other.entropy(), density.entropy())
    found = other.sample(KEY, (4,))
    np.testing.assert_array_equal(found, density.sample(seed=KEY, sample_shape=(4,)))
    again = jax.jit(lambda d, x: d.log_prob(x))(other, x)
    np.testing.assert_allclose(again, density.log_prob(x), rtol=1e-5)
    assert other.expand((2, 3)).sample(KEY).shape == (2, 3)
    assert bool(jnp.all(other.support(found)))
    with pytest.raises(ValueError, match="key"):
        other.sample(3)
    with pytest.raises(ValueError, match="density: expected one of this package, got int"):
        to_numpyro(3)


def test_in_a_model_with_plates_and_observations():
    density = KINDS["line"]()
    data = density.sample(seed=KEY, sample_shape=(50,))

    def model(data=None):
        with numpyro.plate("data", 50):
            numpyro.sample("x", to_numpyro(density), obs=data)

    drawn = handlers.trace(handlers.seed(model, 0)).get_trace()["x"]["value"]
    assert drawn.shape == (50,)
    log, _ = numpyro.infer.util.log_density(model, (data,), {}, {})
    np.testing.assert_allclose(log, density.log_prob(data).sum(), rtol=1e-5)


def test_nuts_draws_from_a_density_on_the_line():
    density = KINDS["line"]()
    kernel = NUTS(lambda: numpyro.sample("x", to_numpyro(density)))
    mcmc = MCMC(kernel, num_warmup=200, num_samples=1500, progress_bar=False)
    mcmc.run(jax.random.key(1))
    x = np.asarray(mcmc.get_samples()["x"])[::5]
    assert stats.kstest(x, lambda t: np.asarray(density.cdf(t))).pvalue > 1e-3


def test_nuts_infers_a_coefficient_on_the_circle():
    """a_1 from samples: the posterior is where the likelihood is."""
    exact = PeriodicDensity(np.array([1.0, 0.5]))
    data = exact.sample(seed=KEY, sample_shape=(400,))

    def model(data):
        size = numpyro.sample("size", numpyro.distributions.Normal(0.0, 1.0))
        a = jnp.stack([jnp.ones_like(size), size]).astype(complex)
        with numpyro.plate("data", data.shape[0]):
            numpyro.sample("x", to_numpyro(PeriodicDensity(a)), obs=data)

    mcmc = MCMC(NUTS(model), num_warmup=150, num_samples=300, progress_bar=False)
    mcmc.run(jax.random.key(2), data)
    sizes = np.asarray(mcmc.get_samples()["size"])
    # a_1 and 1 / a_1 are the same density: both may be found, by the sign they stay apart from 0
    same = np.minimum(np.abs(sizes), 1 / np.abs(sizes))
    assert abs(same.mean() - 0.5) < 4 * same.std() + 0.02 and np.all(sizes > 0)
