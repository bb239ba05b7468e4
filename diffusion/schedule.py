"""What a noise schedule is: time to log-SNR, its inverse, its density.

Notation
    t         time of any shape, 0 at the data and 1 at the noise
    lambda    logsnr = log(alpha^2 / sigma^2), in nats; falls with t
    z         alpha x + sigma eps, with alpha^2 + sigma^2 = 1

A schedule is a frozen object: `schedule(t)`, `schedule.inverse(logsnr)`, `schedule.density(logsnr)`
(of logsnr when t is uniform, |dt / dlambda|). The rest of this package works with logsnr only.
Arguments outside a schedule's range raise a ValueError that names them; if traced, they give NaN.

Source: Kingma et al. (arXiv 2107.00630), where schedules are log-SNRs of time.
"""

import abc
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

SLACK = 1e-5  # of what an argument may exceed its range, for rounding


def within(name: str, value: Any, low: Any, high: Any) -> Array:
    """The value; refused if it is known and outside, NaN there if it is traced.

    Raises:
        ValueError: naming the range.
    """
    value = jnp.asarray(value)
    value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)
    bad = ~_inside(value, low, high)
    try:
        known, ends = np.asarray(bad), (float(low), float(high))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        return jnp.where(bad, jnp.nan, value)
    if known.any():
        worst = np.asarray(value)[known].flat[0]
        raise ValueError(f"{name}: expected values in [{ends[0]:g}, {ends[1]:g}], got {worst:g}")
    return value


def _inside(value: Array, low: Any, high: Any) -> Array:
    """Within a range, but for rounding."""
    slack = SLACK * jnp.maximum(jnp.abs(jnp.asarray(high) - jnp.asarray(low)), 1.0)
    return (value >= low - slack) & (value <= high + slack)


class Schedule(abc.ABC):
    """Base class: subclasses define `logsnr(t)`; `time`, its inverse, is numerical by default."""

    def __call__(self, t: Any) -> Array:
        """Log-SNR at times in [0, 1]."""
        return self.logsnr(within("t", t, 0.0, 1.0))

    @abc.abstractmethod
    def logsnr(self, t: Array) -> Array:
        """The formula, without checks."""

    @property
    def ends(self) -> tuple[Any, Any]:
        """Log-SNR at the noise and at the data: smallest and largest."""
        return self.logsnr(jnp.ones(())), self.logsnr(jnp.zeros(()))

    def inverse(self, logsnr: Any) -> Array:
        """The time at which log-SNR has a value."""
        return self.time(within("logsnr", logsnr, *self.ends))

    def time(self, logsnr: Array) -> Array:
        """The inverse without checks: bisection, then Newton steps, which carry derivatives."""

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            above = self.logsnr(middle) > logsnr
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        start = jnp.zeros_like(logsnr), jnp.ones_like(logsnr)
        rounds = 2 + jnp.finfo(logsnr.dtype).nmant
        low, high = jax.lax.stop_gradient(jax.lax.fori_loop(0, rounds, halve, start))
        t = 0.5 * (low + high)
        for _ in range(2):  # one carries the first derivative, two the third
            t = t - (self.logsnr(t) - logsnr) / self.slope(t)
        return t

    def slope(self, t: Array) -> Array:
        """The derivative dlambda / dt."""
        return jax.jvp(self.logsnr, (t,), (jnp.ones_like(t),))[1]

    def density(self, logsnr: Any) -> Array:
        """Probability density of log-SNR when t is uniform; 0 outside the ends.

        Source: Kingma & Gao (arXiv 2303.00848), the law of log-SNR of a schedule; change of
        variables.
        """
        logsnr = jnp.asarray(logsnr, float)
        low, high = self.ends
        inside = _inside(logsnr, low, high)
        return jnp.where(inside, self.rate(jnp.clip(logsnr, low, high)), 0.0)

    def rate(self, logsnr: Array) -> Array:
        """The derivative |dt / dlambda|, without checks."""
        return -1.0 / self.slope(self.time(logsnr))


def whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises:
        ValueError: naming it.
    """
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def check_range(low: float, high: float) -> None:
    """Refuse bounds that do not increase.

    Raises:
        ValueError: naming them.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"logsnr_min, logsnr_max: expected finite, increasing, got {low}, {high}")
