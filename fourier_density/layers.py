"""Flax (Linen) modules: parameters and dense layers around the densities of this package.

    module = Density(heads.Fourier(order=8), batch_shape=(3,))
    variables = module.init(key)
    density = module.apply(variables)                   # a batch [3] of densities

    head = FourierHead(categories=18, order=6)
    logits = head.apply(variables, features)            # [..., 18], log probabilities

Source: arXiv 2402.15345; for the Fourier head Gillman, Aggarwal, Freeman, Singh, Sun (arXiv
2410.22269).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fourier_density import series
from fourier_density.heads import Head


class Density(nn.Module):
    """Densities as trainable parameters.

    Attributes:
        head: turns the raw parameters, [*batch_shape, outputs], into densities.
        batch_shape: of the densities.
        noise: standard deviation of the raw parameters at the start; all zeros by default.
    """

    head: Head
    batch_shape: tuple[int, ...] = ()
    noise: float = 0.0

    @nn.compact
    def __call__(self) -> Any:
        """The densities."""
        start = nn.initializers.normal(self.noise)
        return self.head.density(self.param("raw", start, (*self.batch_shape, self.head.outputs)))


class ConditionalDensity(nn.Module):
    """Densities given features: a dense layer that starts at zero, and a head.

    Attributes:
        head: makes the densities.
        batch_shape: of densities for each vector of features.
    """

    head: Head
    batch_shape: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, features: Array) -> Any:
        """Densities of batch shape [*B, *batch_shape] for features [*B, F]."""
        wide = int(np.prod(self.batch_shape, dtype=int)) * self.head.outputs
        zeros = nn.initializers.zeros_init()
        raw = nn.Dense(wide, kernel_init=zeros, name="raw")(features)
        shape = (*features.shape[:-1], *self.batch_shape, self.head.outputs)
        return self.head.density(raw.reshape(shape))


class FourierHead(nn.Module):
    """Log probabilities of ordered categories, from a Fourier density over [-1, 1].

    Replaces a dense layer and softmax: category j has the mass of the j-th of m equal bins.
    Neighbouring categories get similar probabilities, the more so the lower the order.

    Attributes:
        categories: m >= 1.
        order: N >= 0.
        values: "mass" takes the probability of each bin; "centre" the density at its centre,
            divided by the sum over all bins, as arXiv 2410.22269 does.
        floor: weight in [0, 1) of the uniform distribution, which keeps logarithms finite.
        init_scale: weights start with deviation init_scale fan-in^(-1/2): density nearly uniform.

    Source: Gillman et al., "Fourier Head" (arXiv 2410.22269); masses and floor are this library's.
    """

    categories: int
    order: int
    values: str = "mass"
    floor: float = 1e-6
    init_scale: float = 0.01

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """[*B, m] of features [*B, F]."""
        if self.values not in ("mass", "centre"):
            raise ValueError(f"values: expected mass or centre, got {self.values!r}")
        if self.categories < 1 or self.order < 0 or not 0 <= self.floor < 1:
            raise ValueError(
                "categories, order, floor: expected at least 1, 0 and in [0, 1), got "
                f"{self.categories}, {self.order}, {self.floor}"
            )
        start = nn.initializers.variance_scaling(self.init_scale**2, "fan_in", "normal")
        raw = nn.Dense(2 * (self.order + 1), kernel_init=start, name="coefficients")(features)
        re, im = raw[..., : self.order + 1].at[..., 0].add(1.0), raw[..., self.order + 1 :]
        if self.values == "mass":
            probabilities = bin_masses(re, im, self.categories)
        else:
            middles = jnp.asarray(_middles(self.categories), raw.dtype)
            u, v = series.evaluate(re[..., None, :], im[..., None, :], middles)
            power = u**2 + v**2 + jnp.finfo(raw.dtype).tiny
            probabilities = power / jnp.sum(power, axis=-1, keepdims=True)
        uniform = self.floor / self.categories
        return jnp.log((1.0 - self.floor) * probabilities + uniform)


def bin_masses(re: Array, im: Array, bins: int) -> Array:
    """Probabilities [..., m] of m equal bins of [-1, 1], by one product with a matrix.

    (1/m) (1 + 2 sum_n sinc(n/m) Re(gamma_n exp(i pi n x_j))), clipped at zero against rounding.

    Args:
        re, im: real and imaginary parts of the coefficients a, [..., N + 1]; gamma_n = c_n / c_0.
        bins: m; x_j is the centre of bin j, and sinc(t) = sin(pi t) / (pi t).

    Source: derived from https://kexue.fm/archives/10007, equation 14.
    """
    power = jnp.sum(re**2 + im**2, axis=-1, keepdims=True)
    c, s = series.autocorrelation(re, im)
    n = np.arange(1, re.shape[-1])
    angle = np.pi * n[:, None] * _middles(bins)
    window = np.sinc(n / bins)[:, None]
    cos, sin = (jnp.asarray(window * wave(angle), re.dtype) for wave in (np.cos, np.sin))
    wave = (c[..., 1:] / power) @ cos - (s[..., 1:] / power) @ sin
    return jax.nn.relu(1.0 + 2.0 * wave) / bins


def _middles(bins: int) -> np.ndarray:
    return (2.0 * np.arange(bins) + 1.0) / bins - 1.0
