"""Densities of this package as distributions of NumPyro.

`numpyro.sample` accepts only instances of NumPyro's own class `Distribution`, hence this adapter.
NumPyro is imported when `to_numpyro` is called, and not before.
"""

import functools
from typing import Any

from fourier_density.common import Density
from fourier_density.real_line import RealLineDensity


def to_numpyro(density: Any, *, validate_args: bool | None = None) -> Any:
    """A `numpyro.distributions.Distribution` of a density, for `numpyro.sample`.

    Its parameter is the density, a pytree, which a model may build from samples of other
    variables. The support is the real line, or the interval [-1, 1].

    Args:
        density: any of this package, single or a batch.
        validate_args: as NumPyro's own: warn of values outside the support.

    Raises:
        ImportError: NumPyro is not installed.
        ValueError: no density.
    """
    if not isinstance(density, Density):
        raise ValueError(f"density: expected one of this package, got {type(density).__name__}")
    return _adapter()(density, validate_args=validate_args)


@functools.cache
def _adapter() -> type:
    import jax

    try:
        from numpyro.distributions import Distribution, constraints
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "numpyro: not installed; pip install 'kexue-jax[numpyro]'"
        ) from None
    from numpyro.distributions.util import is_prng_key, validate_sample

    class FourierDensity(Distribution):
        """Forwards to the density."""

        pytree_data_fields = ("density",)
        reparametrized_params = ["density"]  # noqa: RUF012

        def __init__(self, density: Any, *, validate_args: bool | None = None):
            self.density = density
            super().__init__(density.batch_shape, density.event_shape, validate_args=validate_args)

        @property
        def support(self) -> Any:
            if isinstance(self.density, RealLineDensity):
                return constraints.real
            return constraints.interval(-1.0, 1.0)

        def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
            if not is_prng_key(key):
                raise ValueError("key: expected a random key of JAX")
            return self.density.sample(seed=key, sample_shape=sample_shape)

        @validate_sample
        def log_prob(self, value: Any, intermediates: Any = None) -> Any:
            del intermediates
            return self.density.log_prob(value)

        def cdf(self, value: Any) -> Any:
            return self.density.cdf(value)

        def icdf(self, q: Any) -> Any:
            return self.density.quantile(q)

        def entropy(self) -> Any:
            return self.density.entropy()

        @property
        def mean(self) -> jax.Array:
            return self.density.mean()

        @property
        def variance(self) -> jax.Array:
            return self.density.variance()

    return FourierDensity
