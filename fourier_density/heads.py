"""From the outputs of a network to conditional densities.

A head turns numbers [..., outputs] into a batch of densities [...]. All zeros give its starting
density (of `Fourier`: the base), so a network whose last layer starts at zero starts there.

Notation
    loc, scale  of the data, from which the heads start

Source: arXiv 2402.15345, section 2; the way to many dimensions is that of
https://kexue.fm/archives/10007:
one conditional density after the other.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy import special

from fourier_density import checks, transforms
from fourier_density.density import PeriodicDensity
from fourier_density.real_line import RealLineDensity
from fourier_density.splines import MOST_BINS, Spline

REACH = 8.0  # logarithms of scales stay within this of where they start


@runtime_checkable
class Head(Protocol):
    """What makes densities of a network's outputs."""

    @property
    def outputs(self) -> int:
        """How many numbers (outputs of the network) one density takes."""
        ...

    def density(self, raw: Array) -> Any:
        """Densities of batch shape [...] from numbers [..., outputs]."""
        ...


@dataclass(frozen=True)
class Fourier:
    """Fourier basis densities with coefficients a_k from the network; 1 is added to a_0.

    Attributes:
        order: N >= 0.
        support: "real", or "circle" for angles in units of pi.
        base: on the real line: one of `transforms`, or a head `Mixture` or `SplineFlow`, which
            the series then corrects.
        loc, scale: initial location and scale on the line; if the base is a head, give them to it.
        floor: weight in [0, 1) of the base itself, or on the circle of a uniform component.

    Source: https://kexue.fm/archives/10007, equations 14 and 15, with coefficients from a
    network; arXiv 2402.15345, section 2.
    """

    order: int
    support: str = "real"
    base: Any = "normal"
    loc: float = 0.0
    scale: float = 1.0
    floor: float = 0.0

    def __post_init__(self):
        checks.whole("order", self.order, 0)
        if self.support not in ("real", "circle"):
            raise ValueError(f"support: expected real or circle, got {self.support!r}")
        _check_place(self.loc, self.scale)
        if not isinstance(self.base, Mixture | SplineFlow):
            transforms.named(self.base)
        elif self.support == "circle" or (self.loc, self.scale) != (0.0, 1.0):
            raise ValueError(
                "base: expected a head with support real, and loc and scale to be given to it"
            )

    @property
    def outputs(self) -> int:
        """2 (N + 1); on the line plus 2 (location, scale), or the outputs of a head as base."""
        inner = self.base.outputs if isinstance(self.base, Mixture | SplineFlow) else 2
        return 2 * (self.order + 1) + (inner if self.support == "real" else 0)

    def density(self, raw: Array) -> PeriodicDensity | RealLineDensity:
        """See the class."""
        re, im = (raw[..., part * (self.order + 1) :][..., : self.order + 1] for part in (0, 1))
        a = jax.lax.complex(re.at[..., 0].add(1.0), im)
        if self.support == "circle":
            return PeriodicDensity(a, self.floor)
        if isinstance(self.base, Mixture | SplineFlow):
            inner = self.base.density(raw[..., 2 * (self.order + 1) :])
            return RealLineDensity(a, inner.loc, inner.scale, inner.base, self.floor)
        loc, scale = _place(raw[..., -2], raw[..., -1], self.loc, self.scale)
        return RealLineDensity(a, loc, scale, self.base, self.floor)


@dataclass(frozen=True)
class Mixture:
    """Gaussian mixtures: K weights, means and scales.

    Attributes:
        components: K >= 1.
        loc, scale: means start at normal quantiles of this location and scale.

    Source: https://kexue.fm/archives/10007, equation 3, with weights in place of 1 / K;
    Bishop, "Mixture density networks" (1994).
    """

    components: int
    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        checks.whole("components", self.components)
        _check_place(self.loc, self.scale)

    @property
    def outputs(self) -> int:
        """3 K."""
        return 3 * self.components

    def density(self, raw: Array) -> RealLineDensity:
        """See the class."""
        logits, means, scales = jnp.split(raw, 3, axis=-1)
        levels = (np.arange(self.components) + 0.5) / self.components
        start = jnp.asarray(special.ndtri(levels), raw.dtype)
        sizes = jnp.exp(_bounded(scales)) / self.components**0.5
        # Weights may underflow, their logarithms have gradients all the same.
        weights = jax.nn.softmax(logits) + jnp.finfo(raw.dtype).tiny
        base = transforms.GaussianMixture(weights, start + means, sizes)
        return _bare(base, self.loc, self.scale, raw)


@dataclass(frozen=True)
class SplineFlow:
    """Normal distributions transformed by a monotone spline, then shifted and scaled.

    Attributes:
        bins: K >= 2, bins of the spline.
        bound: outside [-bound, bound], in units of the scale, the spline is the identity.
        loc, scale: initial location and scale.

    Source: Durkan et al., "Neural Spline Flows" (arXiv 1906.04032).
    """

    bins: int
    bound: float = 4.0
    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        checks.whole("bins", self.bins, 2)
        if self.bins > MOST_BINS or not 0 < self.bound < np.inf:
            raise ValueError(
                f"bins, bound: expected 2 to {MOST_BINS} and a finite number > 0, got {self.bins}, "
                f"{self.bound}"
            )
        _check_place(self.loc, self.scale)

    @property
    def outputs(self) -> int:
        """3 K + 1."""
        return 3 * self.bins + 1

    def density(self, raw: Array) -> RealLineDensity:
        """See the class."""
        k = self.bins
        base = Spline(raw[..., :k], raw[..., k : 2 * k], raw[..., 2 * k : 3 * k - 1], self.bound)
        loc, scale = _place(raw[..., -2], raw[..., -1], self.loc, self.scale)
        return _bare(base, loc, scale, raw)


def _bare(base: Any, loc: Any, scale: Any, raw: Array) -> RealLineDensity:
    """The base itself as a density of the line."""
    return RealLineDensity(jnp.ones((*raw.shape[:-1], 1), raw.dtype), loc, scale, base)


def _place(shift: Array, stretch: Array, loc: float, scale: float) -> tuple[Array, Array]:
    return loc + scale * shift, scale * jnp.exp(_bounded(stretch))


def _bounded(stretch: Array) -> Array:
    """The same near zero; never beyond REACH, so that no scale vanishes."""
    return REACH * jnp.tanh(stretch / REACH)


def _check_place(loc: float, scale: float) -> None:
    if not (np.isfinite(loc) and np.isfinite(scale) and scale > 0):
        raise ValueError(f"loc, scale: expected finite ones, scale > 0, got {loc}, {scale}")
