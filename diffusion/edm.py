"""The coordinates of EDM: its noise levels, and its preconditioning of a network.

Notation
    y        x + s eps = z / alpha, what EDM's denoisers read
    s        sigma of EDM, noise over signal: exp(-lambda / 2); times and levels have any shape
    s_d      standard deviation of the data
    F, D     network and denoiser: D = c_skip y + c_out F(c_in y, log(s) / 4)

Source: Karras et al. (arXiv 2206.00364).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from diffusion.schedule import Schedule, whole


@dataclass(frozen=True)
class LogNormal(Schedule):
    """EDM's training levels: for uniform t, log sigma is normal, sigma in [sigma_min, sigma_max].

    Here sigma is EDM's: noise over signal, exp(-lambda / 2).

    Source: Karras et al. (arXiv 2206.00364), table 1.
    """

    mean: float = -1.2
    std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self):
        finite = all(map(math.isfinite, (self.mean, self.std, self.sigma_max)))
        if not (finite and self.std > 0 and 0 < self.sigma_min < self.sigma_max):
            raise ValueError(
                "mean, std, sigma_min, sigma_max: expected finite numbers, std > 0 and 0 < "
                f"sigma_min < sigma_max, got {self.mean}, {self.std}, {self.sigma_min}, "
                f"{self.sigma_max}"
            )

    @property
    def cuts(self) -> tuple[float, float]:
        """Both levels in standard deviations."""
        low, high = ((math.log(s) - self.mean) / self.std for s in (self.sigma_min, self.sigma_max))
        return low, high

    @property
    def ends(self) -> tuple[Any, Any]:
        """Those of the levels."""
        return -2.0 * math.log(self.sigma_max), -2.0 * math.log(self.sigma_min)

    def _tails(self) -> tuple[float, float, float]:
        low, high = self.cuts
        below, above = (0.5 * math.erfc(c / math.sqrt(2.0)) for c in (-low, high))
        return below, above, 1.0 - below - above

    def logsnr(self, t: Array) -> Array:
        """The quantile, from the nearer tail."""
        below, above, mass = self._tails()
        lower, upper = below + t * mass, above + (1.0 - t) * mass
        early = lower < 0.5
        normal = jnp.where(early, 1.0, -1.0) * ndtri(jnp.where(early, lower, upper))
        value = -2.0 * (self.mean + self.std * normal)
        low, high = self.ends  # tails too thin for the precision of t end here, not at infinity
        return jnp.where(value > high, high, jnp.where(value < low, low, value))

    def time(self, logsnr: Array) -> Array:
        """The distribution function, from the nearer tail."""
        below, above, mass = self._tails()
        normal = (-0.5 * logsnr - self.mean) / self.std
        return jnp.where(
            normal < 0, (ndtr(normal) - below) / mass, 1.0 - (ndtr(-normal) - above) / mass
        )

    def rate(self, logsnr: Array) -> Array:
        """The closed form."""
        normal = (-0.5 * logsnr - self.mean) / self.std
        peak = 1.0 / (2.0 * self.std * self._tails()[2] * math.sqrt(2.0 * math.pi))
        return peak * jnp.exp(-0.5 * normal**2)


def edm(
    mean: float = -1.2, std: float = 1.2, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> LogNormal:
    """EDM's training levels: log sigma is N(mean, std^2), sigma within [sigma_min, sigma_max]."""
    return LogNormal(mean, std, sigma_min, sigma_max)


def edm_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """The noise levels that EDM samples at, [steps + 1], the last one 0, in float64.

    The others are (a + i / (steps - 1) (b - a))^rho, a = sigma_max^(1/rho), b = sigma_min^(1/rho).

    Raises:
        ValueError: steps < 2, or levels that do not increase.

    Source: Karras et al. (arXiv 2206.00364), equation 5.
    """
    whole("steps", steps, 2)
    if not (0 < sigma_min < sigma_max and rho > 0):
        raise ValueError(
            "sigma_min, sigma_max, rho: expected 0 < sigma_min < sigma_max and rho > 0, got "
            f"{sigma_min}, {sigma_max}, {rho}"
        )
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (first + np.arange(steps) / (steps - 1) * (last - first)) ** rho
    return np.append(levels, 0.0)


class Scalings(NamedTuple):
    """EDM's preconditioning coefficients, for noise levels of any shape.

    Attributes:
        skip, out, inside: c_skip, c_out and c_in.
        noise: c_noise, the noise level as the network receives it.
        weight: loss weight of the squared error of D.
    """

    skip: Array
    out: Array
    inside: Array
    noise: Array
    weight: Array


def scalings(sigma: Any, sigma_data: float = 0.5) -> Scalings:
    """EDM's preconditioning coefficients (its table 1), with r^2 = sigma^2 + sigma_data^2.

    c_skip = sigma_data^2 / r^2, c_out = sigma sigma_data / r, c_in = 1 / r, c_noise = log(sigma) /
    4; the weight is 1 / c_out^2.

    Raises:
        ValueError: sigma_data that is not positive.

    Source: Karras et al. (arXiv 2206.00364), table 1.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data: expected a positive number, got {sigma_data}")
    sigma = jnp.asarray(sigma, jnp.result_type(float, sigma))
    root = jnp.hypot(sigma, jnp.asarray(sigma_data, sigma.dtype))
    return Scalings(
        skip=(sigma_data / root) ** 2,
        out=sigma * sigma_data / root,
        inside=1.0 / root,
        noise=jnp.log(sigma) / 4.0,
        weight=(root / (sigma * sigma_data)) ** 2,
    )


def precondition(
    network: Callable[..., Array], sigma_data: float = 0.5
) -> Callable[..., Float[Array, "B ..."]]:
    """EDM's denoiser (y, sigma, *more) -> x from a network (c_in y, c_noise, *more) -> F.

    Args:
        network: reads y [B, ...] and c_noise [B].

    Raises:
        ValueError: `sigma_data` is not positive.

    Source: Karras et al. (arXiv 2206.00364), equation 7.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data: expected a positive number, got {sigma_data}")

    def denoiser(y: Array, sigma: Any, *more: Any) -> Array:
        dtype = jnp.promote_types(y.dtype, jnp.float32)
        sigma = jnp.broadcast_to(jnp.asarray(sigma, dtype), y.shape[:1])
        factors = scalings(sigma, sigma_data)
        skip, out, inside = (f.reshape(-1, *(1,) * (y.ndim - 1)) for f in factors[:3])
        value = network((inside * y).astype(y.dtype), factors.noise, *more)
        return (skip * y + out * value).astype(y.dtype)

    return denoiser
