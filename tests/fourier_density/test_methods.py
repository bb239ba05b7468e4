"""Methods that return numbers, of every density: jit, vmap, grad, precisions, recompilation."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import fourier

from fourier_density import PeriodicDensity, RealLineDensity, ReflectedDensity

A = fourier.random_coefficients(7, 3, (2,))
KINDS = {
    "circle": lambda: PeriodicDensity(A, 0.1),
    "reflected": lambda: ReflectedDensity(A.real, 0.1),
    "line": lambda: RealLineDensity(A, 0.2, 1.5, "normal", 0.1),
}
AT_POINT = (
    "prob",
    "log_prob",
    "cdf",
    "log_cdf",
    "survival_function",
    "log_survival_function",
    "quantile",
    "characteristic_function",
)
SUMMARIES = ("mean", "variance", "mode", "entropy", "modes")
ONLY_BOUNDED = ("moments", "regulariser")
INTERVALS = ("interval_prob", "log_interval_prob")


def evaluate(density, x):
    """All methods by name; complex values as pairs of real ones."""
    values = {name: getattr(density, name)(x) for name in AT_POINT}
    values |= {name: getattr(density, name)(x - 0.3, x) for name in INTERVALS}
    bounded = not isinstance(density, RealLineDensity)
    values |= {name: getattr(density, name)() for name in SUMMARIES + ONLY_BOUNDED * bounded}
    values["kl_divergence"] = density.kl_divergence(jax.tree.map(jnp.flip, density))
    values["sample"] = density.sample(seed=jax.random.key(0), sample_shape=(3,))
    pair = density.sample_and_log_prob(seed=jax.random.key(1))
    values |= {"sample_and_log_prob": jnp.stack(pair)}
    values["modes"] = jnp.where(jnp.isnan(values["modes"]), 0.0, values["modes"])  # padding
    return {name: (jnp.real(v), jnp.imag(v)) for name, v in values.items()}


def single(density, x):
    """As `evaluate`, for one density of a batch, without what draws or compares others."""
    return {
        name: value
        for name, value in evaluate(density, x).items()
        if name not in ("kl_divergence", "sample", "sample_and_log_prob")
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_jit_vmap_and_precision_of_every_method(kind, precision):
    density, traces = KINDS[kind](), []

    @jax.jit
    def compiled(density, x):
        traces.append(None)
        return evaluate(density, x)

    values = compiled(density, 0.45)
    compiled(jax.tree.map(lambda leaf: leaf * 1.01, density), 0.46)
    assert len(traces) == 1
    assert {part.dtype.name for pair in values.values() for part in pair} == {precision}
    assert all(np.isfinite(part).all() for pair in values.values() for part in pair)
    mapped = jax.jit(jax.vmap(single, in_axes=(0, None)))(density, 0.45)
    loose = 1e-9 if precision == "float64" else 2e-5
    for name, value in mapped.items():
        np.testing.assert_allclose(value, values[name], atol=loose, rtol=loose, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_method_equal_finite_differences(kind, x64):
    density = KINDS[kind]()
    change = jax.tree.map(lambda leaf: 0.3 * jnp.cos(1.0 + 5.0 * leaf), density)
    # Zeros stay: a density with reflected ends has no imaginary parts.
    change = jax.tree.map(lambda leaf, d: jnp.where(leaf == 0, 0.0, d), density, change)

    def along(step):
        moved = jax.tree.map(lambda leaf, d: leaf + step * d, density, change)
        return evaluate(moved, 0.45)

    value, slope = jax.jit(lambda: jax.jvp(along, (0.0,), (1.0,)))()
    ends = [jax.jit(along)(sign * 1e-5) for sign in (1.0, -1.0)]
    for name in value:
        for part in (0, 1):
            difference = (ends[0][name][part] - ends[1][name][part]) / 2e-5
            np.testing.assert_allclose(
                slope[name][part], difference, atol=2e-6, rtol=2e-6, err_msg=name
            )

    def total(density):
        values = evaluate(density, 0.45)
        return sum(jnp.sum(part) for pair in values.values() for part in pair)

    back = jax.jit(jax.grad(total))(density)
    reverse = sum(
        jnp.sum(g * d) for g, d in zip(jax.tree.leaves(back), jax.tree.leaves(change), strict=True)
    )
    forward = sum(jnp.sum(part) for pair in slope.values() for part in pair)
    np.testing.assert_allclose(reverse, forward, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_from_another_kind_is_refused(kind):
    other = KINDS["circle" if kind != "circle" else "line"]()
    with pytest.raises(ValueError, match="other: expected a"):
        KINDS[kind]().kl_divergence(other)


@pytest.mark.parametrize("kind", KINDS)
def test_median_and_deviation_follow_from_quantile_and_variance(kind, x64):
    density = KINDS[kind]()
    np.testing.assert_allclose(density.cdf(density.median()), 0.5, atol=1e-9)
    np.testing.assert_allclose(density.stddev() ** 2, density.variance(), rtol=1e-12)
    assert density.median().shape == density.stddev().shape == density.batch_shape


@pytest.mark.parametrize(
    "density",
    [PeriodicDensity([1.0]), ReflectedDensity([1.0]), RealLineDensity([1.0], 0.0, 1.0)],
    ids=["circle", "interval", "line"],
)
def test_densities_do_not_change(density):
    before = jax.tree.leaves(density)
    for name in ("floor", "scale", "new"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"{name}: a density does not"):
            setattr(density, name, 2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del density.re
    again = pickle.loads(pickle.dumps(density))
    for one, other in zip(before, jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
