"""What all densities share: they do not change, and some methods follow from others."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array

from fourier_density.checks import Seed, Shape


class Density:
    """Attributes are set once, by `_set`, as those of a frozen dataclass."""

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

    def stddev(self) -> Array:
        """The root of the variance, of the batch shape."""
        return jax.numpy.sqrt(self.variance())

    def sample_and_log_prob(self, *, seed: Seed, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Samples and their log-density."""
        x = self.sample(seed=seed, sample_shape=sample_shape)
        return x, self.log_prob(x)
