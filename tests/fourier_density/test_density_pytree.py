"""`PeriodicDensity` as a pytree: transformations, batches, placeholders and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from calls import call
from reference import fourier

from fourier_density import PeriodicDensity, RealLineDensity, ReflectedDensity

A = fourier.random_coefficients(1, 4, (2, 3))
X = np.linspace(-0.9, 0.9, 7)
VALUES = ("prob", "log_prob", "cdf", "survival_function", "log_cdf")


def test_jit_takes_and_returns_densities(x64):
    density = PeriodicDensity(A[0, 0], 0.1)
    np.testing.assert_allclose(
        jax.jit(lambda d, x: d.prob(x))(density, X), density.prob(X), atol=1e-14, rtol=0
    )
    mirrored = jax.jit(lambda d: d.mirror())(density)
    assert isinstance(mirrored, PeriodicDensity)
    np.testing.assert_array_equal(mirrored.im, -density.im)


def test_densities_can_be_made_inside_jit(x64):
    made = jax.jit(lambda a, floor: PeriodicDensity(a, floor))(jnp.asarray(A[0, 0]), 0.1)
    np.testing.assert_array_equal(made.coefficients, A[0, 0])
    np.testing.assert_array_equal(made.floor, 0.1)


@pytest.mark.parametrize("method", VALUES)
def test_a_batch_broadcasts_against_its_argument(method, x64):
    batch = PeriodicDensity(A, 0.1)
    assert (batch.batch_shape, batch.event_shape, batch.order) == ((2, 3), (), 4)
    values = call(batch, method, X[:, None, None])
    assert values.shape == (7, 2, 3)
    for i, j in np.ndindex(2, 3):
        one = call(PeriodicDensity(A[i, j], 0.1), method, X)
        np.testing.assert_allclose(values[:, i, j], one, atol=1e-13, rtol=0)


@pytest.mark.parametrize("method", ["mean", "variance", "regulariser", "moments"])
def test_summaries_have_the_batch_shape(method, x64):
    values = call(PeriodicDensity(A), method)
    for index in np.ndindex(2, 3):
        one = call(PeriodicDensity(A[index]), method)
        np.testing.assert_allclose(values[index], one, atol=1e-13, rtol=1e-13)


def test_quantile_of_a_batch_is_the_batch_of_quantiles(x64):
    u = np.array([0.2, 0.5, 0.9])
    values = call(PeriodicDensity(A), "quantile", u)
    assert values.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        one = call(PeriodicDensity(A[i, j]), "quantile", u[j])
        np.testing.assert_allclose(values[i, j], one, atol=1e-12, rtol=0)


@pytest.mark.parametrize("axes", [0, PeriodicDensity.tree_unflatten(None, (0, 0, 0))])
def test_vmap_over_a_batch_of_densities(axes, x64):
    batch = PeriodicDensity(A[0], 0.1)
    values = jax.jit(jax.vmap(lambda d, x: d.prob(x), in_axes=(axes, None)))(batch, X)
    assert values.shape == (3, 7)
    np.testing.assert_allclose(values, call(batch, "prob", X[:, None]).T, atol=1e-14, rtol=0)


def test_methods_return_densities_that_vmap_takes(x64):
    one, several = PeriodicDensity(A[0, 0], 0.1), PeriodicDensity(A[0])
    made = one.rotate(np.array([0.1, 0.2, 0.3])), several.convolve(one), several.mirror()
    for batch in made:
        values = jax.jit(jax.vmap(lambda d: d.prob(0.3)))(batch)
        np.testing.assert_allclose(values, call(batch, "prob", 0.3), atol=1e-14, rtol=0)


def test_vmap_returns_a_batch_of_densities(x64):
    made = jax.vmap(PeriodicDensity)(jnp.asarray(A[0]), jnp.array([0.0, 0.1, 0.2]))
    assert made.batch_shape == (3,)
    direct = PeriodicDensity(A[0], np.array([0.0, 0.1, 0.2]))
    np.testing.assert_allclose(
        call(made, "prob", 0.3), call(direct, "prob", 0.3), atol=1e-14, rtol=0
    )


def test_scan_runs_over_densities_and_carries_one(x64):
    stacked = PeriodicDensity(A[0], np.array([0.0, 0.1, 0.2]))

    def body(carry, density):
        return density, (carry.prob(0.3), density.prob(0.3))

    first = jax.tree.map(lambda leaf: leaf[0], stacked)
    last, (before, now) = jax.lax.scan(body, first, stacked)
    np.testing.assert_allclose(now, call(stacked, "prob", 0.3), atol=1e-14, rtol=0)
    np.testing.assert_allclose(before[1:], now[:-1], atol=1e-14, rtol=0)
    np.testing.assert_array_equal(last.re, A[0, 2].real)


def test_grad_has_the_structure_of_the_density(x64):
    density = PeriodicDensity(A[0, 0], 0.1)
    gradient = jax.jit(jax.grad(lambda d: d.log_prob(0.2)))(density)
    assert jax.tree.structure(gradient) == jax.tree.structure(density)
    updated = jax.tree.map(lambda leaf, slope: leaf + 0.01 * slope, density, gradient)
    assert call(updated, "log_prob", 0.2) > call(density, "log_prob", 0.2)


@pytest.mark.parametrize("placeholder", [None, 0, "name", object()])
def test_unflattening_accepts_placeholders(placeholder):
    density = PeriodicDensity(A)
    mapped = jax.tree.map(lambda _: placeholder, density)
    assert isinstance(mapped, PeriodicDensity)
    assert (mapped.re, mapped.im, mapped.floor) == (placeholder,) * 3


def test_a_density_with_placeholders_can_be_printed():
    assert "PeriodicDensity" in repr(jax.tree.map(lambda _: None, PeriodicDensity(A)))


def test_leaves_are_named():
    paths, _ = jax.tree.flatten_with_path(PeriodicDensity(A))
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [".re", ".im", ".floor"]


def test_eval_shape_needs_no_values():
    shape = jax.eval_shape(lambda d: d.prob(0.0), PeriodicDensity(A))
    assert (shape.shape, shape.dtype) == ((2, 3), "float32")


def test_repr_names_order_and_batch():
    assert repr(PeriodicDensity(A)) == "PeriodicDensity(order=4, batch_shape=(2, 3))"


@pytest.mark.parametrize("kind", [PeriodicDensity, ReflectedDensity])
def test_lists_of_coefficients_may_be_traced(kind):
    slope = jax.jit(jax.grad(lambda c: kind([1.0, c]).log_prob(0.2)))
    stacked = jax.grad(lambda c: kind(jnp.stack([1.0, c])).log_prob(0.2))
    assert slope(0.3) == pytest.approx(float(stacked(0.3)), rel=1e-6)
    with pytest.raises(ValueError, match="coefficients: expected shape"):
        kind([])


def test_traced_zero_coefficients_give_nan():
    assert jnp.isnan(jax.jit(lambda a: PeriodicDensity(a).prob(0.0))(jnp.zeros(3)))


@pytest.mark.parametrize("scale", [1e-60, 1e-42, 1e60])
def test_host_coefficients_beyond_single_precision_are_rescaled(scale):
    p = call(PeriodicDensity(scale * np.array([1.0, 0.5])), "prob", 0.0)
    np.testing.assert_allclose(p, 0.9, rtol=1e-6)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(
    ("coefficients", "floor", "message"),
    [
        (1.0, 0.0, r"coefficients: expected shape \[\.\.\., N\+1\].*got \(\)"),
        (np.ones((2, 0)), 0.0, r"coefficients: expected shape.*got \(2, 0\)"),
        ([0.0, 0.0], 0.0, "coefficients: expected a non-zero.*got all zeros"),
        ([[1.0, 1.0], [0.0, 0.0]], 0.0, "coefficients: expected a non-zero"),
        ([1.0, np.nan], 0.0, "coefficients: expected finite values"),
        ([1.0, np.inf], 0.0, "coefficients: expected finite values"),
        ([1.0], -0.1, r"floor: expected a weight in \[0, 1\), got"),
        ([1.0], 1.0, r"floor: expected a weight in \[0, 1\), got"),
        ([1.0], np.nan, r"floor: expected a weight in \[0, 1\), got"),
        (np.ones((2, 3)), np.zeros(3), r"floor: expected a shape that broadcasts.*got \(3,\)"),
        ([1.0], [0.5, 2.0], r"floor: expected a weight in \[0, 1\), got"),
    ],
)
def test_bad_values_raise_and_name_the_argument(convert, coefficients, floor, message):
    with pytest.raises(ValueError, match=message):
        PeriodicDensity(convert(coefficients), convert(floor))


@pytest.mark.parametrize("method", ["prob", "log_prob", "cdf"])
def test_points_that_do_not_broadcast_are_refused_by_name(method):
    circle = PeriodicDensity(np.ones((3, 2)))
    line = RealLineDensity(np.ones((3, 2)), 0.0, 1.0)
    for name, density in (("x", circle), ("y", line)):
        message = rf"{name}: expected a shape that broadcasts against the batch \(3,\), got \(4,\)"
        with pytest.raises(ValueError, match=message):
            getattr(density, method)(np.zeros(4))


@pytest.mark.parametrize(
    "density",
    [
        PeriodicDensity(np.array([1.0, 0.5j])),
        ReflectedDensity(np.array([1.0, 0.5])),
        RealLineDensity(np.array([1.0, 0.5j]), 0.1, 2.0, base="normal"),
        RealLineDensity(np.array([1.0, 0.5]), 0.1, 2.0, base="student_t", boundary="reflect"),
    ],
)
def test_densities_are_kept_in_checkpoints(density, tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"density": density, "step": 3})
    with ocp.StandardCheckpointer() as checkpointer:
        kept = checkpointer.restore(tmp_path / "state", {"density": density, "step": 0})
    assert jax.tree.structure(kept["density"]) == jax.tree.structure(density)
    np.testing.assert_array_equal(kept["density"].log_prob(0.3), density.log_prob(0.3))
