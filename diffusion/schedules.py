"""Noise schedules, all of them from here: `cosine`, `linear`, `shifted`, `interpolated`, `vp_sde`,
`edm` and `edm_sigmas`, `learned`, and the tables `linear_beta`, `scaled_linear_beta`,
`nichol_cosine`.

Notation as in `schedule`; times and log-SNRs have any shape.

>>> from diffusion import schedules
>>> large = schedules.shifted(schedules.cosine(), base_resolution=64, resolution=256)
>>> round(float(large(0.5)), 3)  # as noisy after pooling as 64 x 64 without
-2.773

Source: https://kexue.fm/archives/10047, and the papers that each names.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.edm import LogNormal, edm, edm_sigmas
from diffusion.learned import Learned, learned
from diffusion.schedule import Schedule, check_range, within
from diffusion.tables import Table, from_betas, linear_beta, nichol_cosine, scaled_linear_beta

__all__ = [
    "VPSDE",
    "Cosine",
    "Interpolated",
    "Learned",
    "Linear",
    "LogNormal",
    "Schedule",
    "Shifted",
    "Table",
    "cosine",
    "edm",
    "edm_sigmas",
    "from_betas",
    "interpolated",
    "learned",
    "linear",
    "linear_beta",
    "nichol_cosine",
    "scaled_linear_beta",
    "shift_of",
    "shifted",
    "vp_sde",
    "within",
]


@dataclass(frozen=True)
class Cosine(Schedule):
    """Log-SNR -2 log tan(angle), with an angle that is linear in t between those of both bounds.

    Source: Nichol & Dhariwal (arXiv 2102.09672); in log-SNR, with bounds: Ho & Salimans
    (2207.12598), section 2, and Hoogeboom et al. (2301.11093).
    """

    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    def __post_init__(self):
        check_range(self.logsnr_min, self.logsnr_max)

    @property
    def angles(self) -> tuple[float, float, float]:
        """The angle at the data, its complement at the noise, what it grows by."""
        first = math.atan(math.exp(-self.logsnr_max / 2))
        rest = math.atan(math.exp(self.logsnr_min / 2))
        return first, rest, math.pi / 2 - first - rest

    @property
    def ends(self) -> tuple[Any, Any]:
        """As given."""
        return self.logsnr_min, self.logsnr_max

    def logsnr(self, t: Array) -> Array:
        """The formula; the half near the noise counts from the other end of the angle."""
        first, rest, span = self.angles
        early = t < 0.5
        near = jnp.where(early, first + t * span, rest + (1.0 - t) * span)
        flip = near > math.pi / 4  # bounds that are not symmetric
        near = jnp.where(flip, math.pi / 2 - near, near)
        return jnp.where(early ^ flip, -2.0, 2.0) * jnp.log(jnp.tan(near))

    def time(self, logsnr: Array) -> Array:
        """The closed form, from the nearer end."""
        first, rest, span = self.angles
        early = (jnp.arctan(jnp.exp(-logsnr / 2)) - first) / span
        late = 1.0 - (jnp.arctan(jnp.exp(logsnr / 2)) - rest) / span
        return jnp.where(logsnr > 0, early, late)

    def rate(self, logsnr: Array) -> Array:
        """The closed form, sech(lambda / 2) / (4 span).

        Source: derived from Nichol & Dhariwal (arXiv 2102.09672), equation 17, without the offset.
        """
        half = jnp.exp(-jnp.abs(logsnr) / 2)
        return half / (1.0 + half**2) / (2.0 * self.angles[2])


def cosine(logsnr_min: float = -15.0, logsnr_max: float = 15.0) -> Cosine:
    """The cosine schedule: log-SNR is -2 log tan of an angle linear in t, exact at both bounds.

    Raises:
        ValueError: bounds that do not increase.
    """
    return Cosine(logsnr_min, logsnr_max)


@dataclass(frozen=True)
class Linear(Schedule):
    """Log-SNR linear in t; the default bounds are VDM's fixed ones (Kingma et al., 2107.00630).

    Source: Kingma et al. (arXiv 2107.00630), equations 4 and 5, with a straight gamma = -lambda.
    """

    logsnr_min: float = -5.0
    logsnr_max: float = 13.3

    def __post_init__(self):
        check_range(self.logsnr_min, self.logsnr_max)

    @property
    def ends(self) -> tuple[Any, Any]:
        """As given."""
        return self.logsnr_min, self.logsnr_max

    def logsnr(self, t: Array) -> Array:
        """The formula."""
        return (1.0 - t) * self.logsnr_max + t * self.logsnr_min

    def time(self, logsnr: Array) -> Array:
        """The closed form."""
        return (self.logsnr_max - logsnr) / (self.logsnr_max - self.logsnr_min)

    def rate(self, logsnr: Array) -> Array:
        """A constant."""
        return jnp.full_like(logsnr, 1.0 / (self.logsnr_max - self.logsnr_min))


def linear(logsnr_min: float = -5.0, logsnr_max: float = 13.3) -> Linear:
    """Log-SNR linear in t, from logsnr_max at t = 0 (data) to logsnr_min at t = 1 (noise)."""
    return Linear(logsnr_min, logsnr_max)


@dataclass(frozen=True)
class Shifted(Schedule):
    """Another schedule plus a constant.

    Source: Hoogeboom et al. (arXiv 2301.11093), equation 5; https://kexue.fm/archives/10047,
    equation 5, in logarithms.
    """

    schedule: Schedule
    shift: float

    def __post_init__(self):
        if not math.isfinite(self.shift):
            raise ValueError(f"shift: expected a finite number, got {self.shift}")

    @property
    def ends(self) -> tuple[Any, Any]:
        """Those of the other, moved."""
        low, high = self.schedule.ends
        return low + self.shift, high + self.shift

    def logsnr(self, t: Array) -> Array:
        """The formula."""
        return self.schedule.logsnr(t) + self.shift

    def time(self, logsnr: Array) -> Array:
        """That of the other."""
        return self.schedule.time(logsnr - self.shift)

    def rate(self, logsnr: Array) -> Array:
        """That of the other."""
        return self.schedule.rate(logsnr - self.shift)


def shift_of(base: int | float, size: int | float, dimensions: int = 2) -> float:
    """Shift of log-SNR, dimensions * log(base / size), keeping the SNR after pooling to `base`.

    Averaging m elements along each of k dimensions, m = size / base, divides the standard
    deviation of noise by m^(k/2), which multiplies the SNR by m^k.

    Raises:
        ValueError: sizes that are not positive, dimensions < 1.

    Source: https://kexue.fm/archives/10047, equations 3 to 5, in logarithms; Hoogeboom et al.
    (arXiv 2301.11093), equations 4 and 5; other dimensions than two are derived from these.
    """
    if not (base > 0 and size > 0) or dimensions < 1:
        raise ValueError(
            "base_resolution, resolution, dimensions: expected positive sizes and at least one "
            f"dimension, got {base}, {size}, {dimensions}"
        )
    return dimensions * math.log(base / size)


def shifted(schedule: Schedule, base_resolution: int | float, resolution: int | float) -> Shifted:
    """Log-SNR and its bounds plus 2 log(base_resolution / resolution), for another image size.

    Raises:
        ValueError: no schedule, resolutions that are not positive.

    Source: https://kexue.fm/archives/10047, equation 5, in logarithms; Hoogeboom et al. (arXiv
    2301.11093), equation 5.
    """
    _check_schedule(schedule)
    return Shifted(schedule, shift_of(base_resolution, resolution))


def _check_schedule(schedule: object) -> None:
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule: expected a Schedule, got {type(schedule).__name__}")


@dataclass(frozen=True)
class Interpolated(Schedule):
    """A schedule plus a shift linear in t, shift_at_data at t = 0 and shift_at_noise at t = 1.

    Source: Hoogeboom et al. (arXiv 2301.11093), equation 6. Sources disagree which resolution
    belongs to which end; here the ends are named.
    """

    schedule: Schedule
    shift_at_data: float
    shift_at_noise: float

    def __post_init__(self):
        grid = np.linspace(0.0, 1.0, 1001)
        try:
            with jax.ensure_compile_time_eval():
                values = np.asarray(self.logsnr(jnp.asarray(grid)))
        except jax.errors.TracerArrayConversionError:  # of a schedule that is being trained
            return
        if not np.all(np.diff(values) < 0):
            raise ValueError(
                "at_data, at_noise: expected a log-SNR that falls with t, got one that rises "
                f"near t = {grid[int(np.argmax(np.diff(values)))]:.3f}; bring them closer"
            )

    @property
    def ends(self) -> tuple[Any, Any]:
        """Those of the two shifted ones."""
        low, high = self.schedule.ends
        return low + self.shift_at_noise, high + self.shift_at_data

    def logsnr(self, t: Array) -> Array:
        """The formula."""
        return self.schedule.logsnr(t) + (1.0 - t) * self.shift_at_data + t * self.shift_at_noise


def interpolated(
    schedule: Schedule, at_data: int | float, at_noise: int | float, resolution: int | float
) -> Interpolated:
    """(1 - t) * shifted(schedule, at_data, resolution) + t * shifted(schedule, at_noise, ...).

    Raises:
        ValueError: resolutions so far apart that log-SNR does not decrease with t everywhere.

    Source: Hoogeboom et al. (arXiv 2301.11093), equation 6, with the ends named.
    """
    _check_schedule(schedule)
    return Interpolated(schedule, shift_of(at_data, resolution), shift_of(at_noise, resolution))


@dataclass(frozen=True)
class VPSDE(Schedule):
    """The variance-preserving SDE with beta linear in its time s, from beta_min to beta_max.

    sigma^2/alpha^2 = expm1(s^2 (beta_max - beta_min)/2 + s beta_min), s = start + t (1 - start).

    Source: Song et al. (arXiv 2011.13456), appendix C; in these terms, Karras et al. (2206.00364),
    table 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    start: float = 1e-5

    def __post_init__(self):
        if not (0 < self.beta_min < self.beta_max and 0 < self.start < 1):
            raise ValueError(
                "beta_min, beta_max, start: expected 0 < beta_min < beta_max and 0 < start < 1, "
                f"got {self.beta_min}, {self.beta_max}, {self.start}"
            )

    def logsnr(self, t: Array) -> Array:
        """The formula."""
        s = self.start + t * (1.0 - self.start)
        total = s * (0.5 * (self.beta_max - self.beta_min) * s + self.beta_min)
        return -total - jnp.log(-jnp.expm1(-total))  # -log expm1, which overflows

    def time(self, logsnr: Array) -> Array:
        """The root of the quadratic, without cancellation."""
        total = jax.nn.softplus(-logsnr)
        root = jnp.sqrt(self.beta_min**2 + 2.0 * (self.beta_max - self.beta_min) * total)
        return (2.0 * total / (self.beta_min + root) - self.start) / (1.0 - self.start)


def vp_sde(beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-5) -> VPSDE:
    """The variance-preserving SDE of Song et al. with linear beta, from its time `start` to 1."""
    return VPSDE(beta_min, beta_max, start)
