"""The Fourier basis density on the circle [-1, 1).

Notation
    a        coefficients a_0..a_N, shape [..., N+1]
    gamma_n  c_n / c_0, the circular moments E[exp(-i pi n X)], n = 1..N
    floor    weight of a uniform component: p = (1 - floor) |A|^2 / (2 c_0) + floor / 2
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class
from jaxtyping import Array, Float, Key

from fourier_density import series


@register_pytree_with_keys_class
class PeriodicDensity:
    """p(x) = |A(x)|^2 / (2 sum_k |a_k|^2) with A(x) = sum_k a_k exp(i pi k x).

    A batch of densities is a batch of coefficients: every method broadcasts its argument
    against `batch_shape`. Densities are periodic, so `prob` and `log_prob` accept any real
    point; the distribution function starts at -1 and is 0 below it and 1 above 1.
    The scale and the phase of `coefficients` do not matter.

    Args:
        coefficients: complex [..., N+1], a_0..a_N (real input is taken as complex).
        floor: weight in [0, 1) of a uniform component; keeps the density and its gradient
            alive at roots of A.

    Raises:
        ValueError: no coefficients, all-zero or non-finite coefficients, floor outside
            [0, 1). Traced values are not checked: zero coefficients then give NaN.

    Source: arXiv 2402.15345, section 2; https://kexue.fm/archives/10007.

    >>> density = PeriodicDensity([1.0, 0.5])
    >>> round(float(density.prob(0.0)), 3)
    0.9
    """

    event_shape: tuple[int, ...] = ()

    def __init__(self, coefficients: Any, floor: Any = 0.0):
        if not isinstance(coefficients, jax.Array):
            coefficients = np.asarray(coefficients)
        if coefficients.ndim < 1 or coefficients.shape[-1] < 1:
            raise ValueError(
                "coefficients: expected shape [..., N+1] with N >= 0, "
                f"got {tuple(coefficients.shape)}"
            )
        _check_values(coefficients, floor)
        if isinstance(coefficients, np.ndarray):  # the scale is free: bring it into float32
            largest = np.maximum(np.abs(coefficients.real), np.abs(coefficients.imag))
            exponent = np.frexp(largest.max(-1, keepdims=True))[1]
            coefficients = coefficients * np.ldexp(1.0, np.where(abs(exponent) > 96, -exponent, 0))
        if not jnp.issubdtype(coefficients.dtype, jnp.inexact):
            coefficients = coefficients.astype(float)
        self.re = jnp.asarray(coefficients.real)
        self.im = jnp.asarray(coefficients.imag)
        self.floor = jnp.asarray(floor, self.re.dtype)

    def tree_flatten_with_keys(self):
        """Leaves with their names, for JAX."""
        names = ("re", "im", "floor")
        return tuple((GetAttrKey(name), getattr(self, name)) for name in names), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> "PeriodicDensity":
        """Rebuild without validation: JAX passes placeholders here."""
        density = object.__new__(cls)
        density.re, density.im, density.floor = leaves
        return density

    def __repr__(self) -> str:
        if not all(hasattr(leaf, "shape") for leaf in (self.re, self.floor)):
            return f"PeriodicDensity({self.re}, {self.im}, floor={self.floor})"  # placeholders
        return f"PeriodicDensity(order={self.order}, batch_shape={self.batch_shape})"

    @property
    def order(self) -> int:
        """N: the degree of A, and of the density as a trigonometric polynomial."""
        return self.re.shape[-1] - 1

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of densities."""
        return jnp.broadcast_shapes(self.re.shape[:-1], self.floor.shape)

    @property
    def coefficients(self) -> Array:
        """a_0..a_N as a complex array [..., N+1]."""
        return jax.lax.complex(self.re, self.im)

    def _unit_coefficients(self) -> series.Pair:
        """A / |a|: scaled by the largest part first, so that squares cannot overflow.

        The density does not depend on the scale, so it may be held constant in gradients.
        """
        largest = jnp.maximum(jnp.abs(self.re), jnp.abs(self.im)).max(-1, keepdims=True)
        largest = jax.lax.stop_gradient(largest)
        re, im = self.re / largest, self.im / largest
        norm = jnp.sqrt(jnp.sum(re**2 + im**2, axis=-1, keepdims=True))
        return re / norm, im / norm

    def moments(self) -> Array:
        """Circular moments E[exp(-i pi n X)], n = 1..N, complex [..., N]."""
        re, im = series.autocorrelation(*self._unit_coefficients())
        keep = (1.0 - self.floor)[..., None]
        return jax.lax.complex(re[..., 1:] * keep, im[..., 1:] * keep)

    def prob(self, x: Any) -> Array:
        """Density at x, per unit of x; never negative."""
        u, v = series.evaluate(*self._unit_coefficients(), jnp.asarray(x, self.re.dtype))
        return (1.0 - self.floor) * 0.5 * (u**2 + v**2) + 0.5 * self.floor

    def log_prob(self, x: Any) -> Array:
        """Natural logarithm of the density at x; -inf only at an exact root."""
        return jnp.log(self.prob(x))

    def cdf(self, x: Any) -> Array:
        """P(X <= x) = (x+1)/2 + sum_n Re[gamma_n (exp(i pi n x) - (-1)^n) / (i pi n)]."""
        x = jnp.clip(jnp.asarray(x, self.re.dtype), -1.0, 1.0)
        gamma = self.moments()
        # gamma_n / (i pi n) = (Im gamma_n - i Re gamma_n) / (pi n)
        n = jnp.pi * jnp.arange(1, self.order + 1)
        zero = jnp.zeros((*gamma.shape[:-1], 1), self.re.dtype)
        re = jnp.concatenate([zero, gamma.imag / n], axis=-1)
        im = jnp.concatenate([zero, -gamma.real / n], axis=-1)
        wave, _ = series.evaluate(re, im, x)
        start, _ = series.evaluate(re, im, jnp.full((), -1.0, self.re.dtype))
        return jnp.clip(0.5 * (x + 1.0) + wave - start, 0.0, 1.0)

    def survival_function(self, x: Any) -> Array:
        """P(X > x), summed from the upper end by way of the mirrored density."""
        return self.mirror().cdf(-jnp.asarray(x, self.re.dtype))

    def log_cdf(self, x: Any) -> Array:
        """Log P(X <= x)."""
        return jnp.log(self.cdf(x))

    def mirror(self) -> "PeriodicDensity":
        """The density of -X (conjugated coefficients)."""
        return PeriodicDensity.tree_unflatten(None, (self.re, -self.im, self.floor))

    def quantile(self, probability: Any) -> Array:
        """The point x with cdf(x) = probability; NaN outside [0, 1].

        A bracketed Newton iteration. Its last step is differentiable, which gives the
        implicit gradients dx/dtheta = -(dP/dtheta)/p and dx/du = 1/p.
        """
        u = jnp.asarray(probability, self.re.dtype)
        shape = jnp.broadcast_shapes(u.shape, self.batch_shape)
        frozen = jax.lax.stop_gradient(self)
        target = jax.lax.stop_gradient(u)

        def step(_: Any, bracket: tuple[Array, Array, Array]):
            low, high, x = bracket
            error = frozen.cdf(x) - target
            low, high = jnp.where(error > 0, low, x), jnp.where(error > 0, x, high)
            newton = x - error / jnp.maximum(frozen.prob(x), jnp.finfo(x.dtype).tiny)
            inside = (newton > low) & (newton < high)
            return low, high, jnp.where(inside, newton, 0.5 * (low + high))

        ones = jnp.ones(shape, self.re.dtype)
        steps = 2 * jnp.finfo(self.re.dtype).nmant
        _, _, x = jax.lax.fori_loop(0, steps, step, (-ones, ones, 0.0 * ones))
        slope = jax.lax.stop_gradient(jnp.maximum(frozen.prob(x), 1e-6))
        correction = (self.cdf(x) - u) / slope
        x = x - (correction - jax.lax.stop_gradient(correction))
        return jnp.where((u >= 0) & (u <= 1), x, jnp.nan)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Samples of shape sample_shape + batch_shape, with reparameterised gradients."""
        shape = (*sample_shape, *self.batch_shape)
        return self.quantile(jax.random.uniform(seed, shape, self.re.dtype))

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Samples and their log-density."""
        x = self.sample(seed=seed, sample_shape=sample_shape)
        return x, self.log_prob(x)

    def mean(self) -> Float[Array, "..."]:
        """E[X] = sum_n 2 (-1)^n / (n pi) Im gamma_n, for X in [-1, 1)."""
        n = jnp.arange(1, self.order + 1)
        return jnp.sum(2.0 * _sign(n) / (n * jnp.pi) * self.moments().imag, axis=-1)

    def variance(self) -> Float[Array, "..."]:
        """E[X^2] - E[X]^2, with E[X^2] = 1/3 + sum_n 4 (-1)^n / (n pi)^2 Re gamma_n."""
        n = jnp.arange(1, self.order + 1)
        series_sum = jnp.sum(4.0 * _sign(n) / (n * jnp.pi) ** 2 * self.moments().real, axis=-1)
        return 1.0 / 3.0 + series_sum - self.mean() ** 2

    def regulariser(self) -> Float[Array, "..."]:
        """Roughness of the normalised density: integral of p'(x)^2 = pi^2 sum_n n^2 |gamma_n|^2.

        The paper penalises the *unnormalised* f, which shrinking all coefficients defeats.
        """
        n = jnp.arange(1, self.order + 1)
        return jnp.pi**2 * jnp.sum(n**2 * jnp.abs(self.moments()) ** 2, axis=-1)


def _sign(n: Array) -> Array:
    return 1.0 - 2.0 * (n % 2)


def _check_values(coefficients: Any, floor: Any) -> None:
    """Concrete values raise; traced values cannot be looked at."""
    values, weight = _concrete(coefficients), _concrete(floor)
    if values is not None and not np.all(np.isfinite(values)):
        raise ValueError("coefficients: expected finite values, got NaN or infinity")
    if values is not None and values.size and not np.all(np.any(values != 0, axis=-1)):
        raise ValueError("coefficients: expected a non-zero a_0..a_N, got all zeros")
    if weight is not None and not np.all((weight >= 0) & (weight < 1)):
        raise ValueError(f"floor: expected a weight in [0, 1), got {floor}")


def _concrete(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None
