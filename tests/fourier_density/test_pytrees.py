"""Classes of densities and bases are told apart by JAX, so that no program serves another's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from fourier_density import RealLineDensity, baselines, pytrees, transforms

BASES = [transforms.Tanh(), transforms.Normal(), transforms.Laplace(), transforms.StudentT()]


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(BASES, 2)])
def test_bases_have_structures_of_their_own(first, second):
    assert jax.tree.structure(first) != jax.tree.structure(second)
    one, two = (RealLineDensity([1.0, 0.5], 0.0, 1.0, base) for base in (first, second))
    assert jax.tree.structure(one) != jax.tree.structure(two)


def test_bases_of_the_user_are_told_apart_inside_a_density():
    """Also where their classes are not: JAX compares plain dataclasses by their fields."""

    @struct.dataclass
    class Wide(transforms.Normal):
        pass

    @struct.dataclass
    class Narrow(transforms.Tanh):
        pass

    one, two = (RealLineDensity([1.0], 0.0, 1.0, base) for base in (Wide(), Narrow()))
    assert jax.tree.structure(one) != jax.tree.structure(two)
    compiled = jax.jit(lambda d: d.log_prob(0.0))
    np.testing.assert_allclose(compiled(one), -0.5 * np.log(2 * np.pi), rtol=1e-6)
    np.testing.assert_allclose(compiled(two), -np.log(2.0), rtol=1e-6)


def test_the_parameters_of_a_mixture_are_no_mixture():
    parts = [jnp.ones(2)] * 3
    mixture, parameters = transforms.GaussianMixture(*parts), baselines.MixtureParameters(*parts)
    assert jax.tree.structure(mixture) != jax.tree.structure(parameters)


@pytrees.dataclass
class Line:
    """A value with one array and one constant."""

    slope: jax.Array
    name: str = pytrees.static(default="line")


def test_fields_are_leaves_or_structure():
    line = Line(jnp.ones(2))
    leaves, structure = jax.tree.flatten(line)
    assert len(leaves) == 1 and structure != jax.tree.structure(Line(jnp.ones(2), "other"))
    assert jax.tree.map(lambda _: None, line).slope is None  # placeholders pass
    (path, _), *_ = jax.tree_util.tree_leaves_with_path(line)
    assert jax.tree_util.keystr(path) == ".slope"
    batch = jax.vmap(lambda v: Line(v, "batch"))(jnp.arange(3.0))
    assert batch.slope.shape == (3,) and batch.name == "batch"
    with pytest.raises(AttributeError):
        line.name = "new"
