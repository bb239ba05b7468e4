"""Schedules of discrete-time models: tables of alpha-bar in float64, read between their entries.

Notation as in `schedules`; index i of N stands for t = i / (N - 1).

Source: Ho et al. (arXiv 2006.11239), whose models have such tables; between entries, the project's
own.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Table(Schedule):
    """Log-SNR at N equally spaced times, interpolated linearly between them.

    Attributes:
        logsnrs: [N], float64, falling.
    """

    logsnrs: np.ndarray

    def __post_init__(self):
        if self.logsnrs.ndim != 1 or len(self.logsnrs) < 2:
            raise ValueError(f"logsnrs: expected at least 2 values, got {self.logsnrs.shape}")
        if not (np.all(np.isfinite(self.logsnrs)) and np.all(np.diff(self.logsnrs) < 0)):
            raise ValueError("logsnrs: expected finite values that fall, got others")

    @property
    def alphas_bar(self) -> np.ndarray:
        """The squares of alpha, [N]."""
        return 1.0 / (1.0 + np.exp(-self.logsnrs))

    @property
    def ends(self) -> tuple[Any, Any]:
        """The last and the first entry."""
        return float(self.logsnrs[-1]), float(self.logsnrs[0])

    def logsnr(self, t: Array) -> Array:
        """Between the entries."""
        place = t * (len(self.logsnrs) - 1)
        left = jnp.clip(jnp.floor(place), 0, len(self.logsnrs) - 2).astype(int)
        first, step = self._pieces(left, t.dtype)
        return first + (place - left) * step

    def time(self, logsnr: Array) -> Array:
        """Between the entries."""
        left = self._left(logsnr)
        first, step = self._pieces(left, logsnr.dtype)
        return (left + (logsnr - first) / step) / (len(self.logsnrs) - 1)

    def rate(self, logsnr: Array) -> Array:
        """Constant between entries."""
        _, step = self._pieces(self._left(logsnr), logsnr.dtype)
        return -1.0 / step / (len(self.logsnrs) - 1)

    def denoiser(self, network: Callable[..., Array]) -> Callable[..., Array]:
        """A denoiser (z, logsnr[, condition]) from a network (z, i[, condition]) of this table.

        i are indices [B], real numbers from 0 to N - 1, interpolated to the log-SNR; log-SNR beyond
        the table is taken at its end.
        """

        def predict(z: Array, logsnr: Array, *condition: Any) -> Array:
            inside = jnp.clip(jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1]), *self.ends)
            return network(z, self.time(inside) * (len(self.logsnrs) - 1), *condition)

        return functools.update_wrapper(predict, network, assigned=(), updated=())

    def _pieces(self, left: Array, dtype: Any) -> tuple[Array, Array]:
        values = jnp.asarray(self.logsnrs[:-1], dtype), jnp.asarray(np.diff(self.logsnrs), dtype)
        return values[0][left], values[1][left]

    def _left(self, logsnr: Array) -> Array:
        falling = jnp.asarray(-self.logsnrs, logsnr.dtype)
        place = jnp.searchsorted(falling, -logsnr, side="right") - 1
        return jnp.clip(place, 0, len(self.logsnrs) - 2)


def from_betas(betas: Any) -> Table:
    """The schedule of a forward process with the variances beta_1 .. beta_N.

    Raises:
        ValueError: fewer than two, or any outside (0, 1).

    Source: Ho et al. (arXiv 2006.11239), equation 4: alpha-bar is the product of 1 - beta.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError("betas: expected at least two numbers in (0, 1), got others")
    log_alpha_bar = np.cumsum(np.log1p(-betas))
    return Table(log_alpha_bar - np.log(-np.expm1(log_alpha_bar)))


@functools.lru_cache
def linear_beta(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Table:
    """DDPM's schedule: variances beta_1..beta_N linear from `first` to `last`.

    Source: Ho et al. (arXiv 2006.11239), section 4.
    """
    return from_betas(np.linspace(first, last, _steps(steps)))


@functools.lru_cache
def scaled_linear_beta(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Table:
    """Latent diffusion's schedule: sqrt(beta) linear from sqrt(first) to sqrt(last).

    Source: Rombach et al. (arXiv 2112.10752), their public configurations.
    """
    return from_betas(np.linspace(first**0.5, last**0.5, _steps(steps)) ** 2)


@functools.lru_cache
def nichol_cosine(steps: int = 1000, offset: float = 0.008, cap: float = 0.999) -> Table:
    """Improved DDPM's cosine schedule: alpha-bar = cos^2 of an angle linear in i, beta <= cap.

    Source: Nichol & Dhariwal (arXiv 2102.09672), equation 17.
    """
    angle = (np.arange(_steps(steps) + 1) / steps + offset) / (1.0 + offset) * np.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return from_betas(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], cap))


def _steps(steps: int) -> int:
    if steps < 2:
        raise ValueError(f"steps: expected at least 2, got {steps}")
    return steps
