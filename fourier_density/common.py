"""What all densities share: they do not change, and some methods follow from others."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import quadrature
from fourier_density.checks import Seed, Shape


class Density:
    """Base class of all densities: immutable, attributes are set once by `_set`."""

    quantile: Any
    variance: Any
    sample: Any
    log_prob: Any

    def _set(self, **parts: Any) -> None:
        vars(self).update(parts)

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"{name}: a density does not change, make another")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"{name}: a density does not change, make another")

    def median(self) -> Array:
        """The quantile of 1/2, of the batch shape."""
        return self.quantile(0.5)

    @jax.jit
    def stddev(self) -> Array:
        """The root of the variance, of the batch shape."""
        return jnp.sqrt(self.variance())

    def sample_and_log_prob(self, *, seed: Seed, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Samples and their log-density."""
        x = self.sample(seed=seed, sample_shape=sample_shape)
        return x, self.log_prob(x)


class Bounded(Density):
    """Base class of the densities on [-1, 1]."""

    batch_shape: Any
    order: Any
    prob: Any
    mean: Any

    def expectation(self, function: Callable[[Array], Array]) -> Array:
        """E[function(X)] by Gauss-Legendre quadrature: weights are positive, no digits are lost.

        Args:
            function: elementwise, smooth on [-1, 1]; gets points [K, 1, .., 1], to broadcast.

        Returns:
            [*batch_shape].

        Source: derived from https://kexue.fm/archives/10007, equation 14, times the function.
        """
        points, weights = quadrature.interval(self.order, self.mean().dtype)
        x = points.reshape(-1, *(1,) * len(self.batch_shape))
        return jnp.tensordot(weights, self.prob(x) * function(x), axes=1, precision="highest")

    @jax.jit
    def variance(self) -> Array:
        """E[(X - E[X])^2] by quadrature, accurate however narrow the density is.

        Source: derived from https://kexue.fm/archives/10007, equation 14.
        """
        mean = self.mean()
        return self.expectation(lambda x: (x - mean) ** 2)
