"""The Fourier basis density on the circle [-1, 1).

Notation
    a        coefficients a_0..a_N, shape [..., N+1]
    gamma_n  (1 - floor) c_n / c_0 = E[exp(-i pi n X)], circular moments, n = 1..N (A, c: `series`)
    floor    weight of a uniform component: p = (1 - floor) |A|^2 / (2 c_0) + floor / 2
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class
from jaxtyping import Array, Float

from fourier_density import (
    angles,
    checks,
    extrema,
    factorisation,
    information,
    masses,
    plotting,
    sampling,
    series,
)
from fourier_density.checks import Seed, Shape
from fourier_density.common import Bounded


@register_pytree_with_keys_class
class PeriodicDensity(Bounded):
    """p(x) = |A(x)|^2 / (2 sum_k |a_k|^2) with A(x) = sum_k a_k exp(i pi k x).

    A batch of densities is a batch of coefficients: every method broadcasts its argument
    against `batch_shape`. Densities are periodic, so `prob` and `log_prob` accept any real
    point; the distribution function starts at -1 and is 0 below it and 1 above 1.
    A common complex factor of `coefficients` (scale and phase) does not matter.

    Args:
        coefficients: complex [..., N+1], a_0..a_N (real input is taken as complex).
        floor: weight in [0, 1) of a uniform component; keeps the density positive, and
            so log p and its gradient finite, at roots of A.

    Raises:
        ValueError: no coefficients, all-zero or non-finite coefficients, floor outside
            [0, 1). Traced values are not checked: zero coefficients then give NaN.

    Source: arXiv 2402.15345, section 2; https://kexue.fm/archives/10007, equation 14, conjugated.

    >>> density = PeriodicDensity([1.0, 0.5])
    >>> round(float(density.prob(0.0)), 3)
    0.9
    """

    event_shape: tuple[int, ...] = ()
    re: Array
    im: Array
    floor: Array

    def __init__(self, coefficients: Any, floor: Any = 0.0):
        coefficients = checks.array(coefficients)
        if coefficients.ndim < 1 or coefficients.shape[-1] < 1:
            raise ValueError(
                "coefficients: expected shape [..., N+1] with N >= 0, "
                f"got {tuple(coefficients.shape)}"
            )
        shape = checks.joint_shape(coefficients.shape[:-1], floor=floor)
        checks.check_values(coefficients, floor)
        if isinstance(coefficients, np.ndarray):  # the scale is free: bring it into float32
            largest = np.maximum(np.abs(coefficients.real), np.abs(coefficients.imag))
            exponent = np.frexp(largest.max(-1, keepdims=True))[1]
            coefficients = coefficients * np.ldexp(1.0, np.where(abs(exponent) > 96, -exponent, 0))
        if not jnp.issubdtype(coefficients.dtype, jnp.inexact):
            coefficients = coefficients.astype(float)
        # Every leaf has the batch shape, so that `jax.vmap` maps over a batch of densities.
        whole = (*shape, coefficients.shape[-1])
        re, im = (
            jnp.broadcast_to(jnp.asarray(part), whole)
            for part in (coefficients.real, coefficients.imag)
        )
        self._set(re=re, im=im, floor=jnp.broadcast_to(jnp.asarray(floor, re.dtype), shape))

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Leaves with their names, for JAX."""
        names = ("re", "im", "floor")
        return tuple((GetAttrKey(name), getattr(self, name)) for name in names), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> "PeriodicDensity":
        """Rebuild without validation: JAX passes placeholders here."""
        density = object.__new__(cls)
        density._set(re=leaves[0], im=leaves[1], floor=leaves[2])
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
        return self.re.shape[:-1]

    @property
    def coefficients(self) -> Array:
        """a_0..a_N as a complex array [..., N+1]."""
        return jax.lax.complex(self.re, self.im)

    def _unit_coefficients(self) -> series.Pair:
        """A / |a|: scaled by the largest part first, so that squares cannot overflow.

        The density does not depend on the scale, so it may be held constant in gradients. Jitted
        for CPUs, jaxlib 0.11 gives infinities for a large batch divided by a square root.
        """
        largest = jnp.maximum(jnp.abs(self.re), jnp.abs(self.im)).max(-1, keepdims=True)
        largest = jax.lax.stop_gradient(largest)
        re, im = self.re / largest, self.im / largest
        inverse = jax.lax.rsqrt(jnp.sum(re**2 + im**2, axis=-1, keepdims=True))
        return re * inverse, im * inverse

    def moment_parts(self) -> series.Pair:
        """Real and imaginary parts of `moments`."""
        re, im = series.autocorrelation(*self._unit_coefficients())
        keep = (1.0 - self.floor)[..., None]
        return re[..., 1:] * keep, im[..., 1:] * keep

    @jax.jit
    def moments(self) -> Array:
        """Circular moments (1 - floor) c_n / c_0 = E[exp(-i pi n X)], n = 1..N, complex [..., N].

        Source: https://kexue.fm/archives/10007, equation 14; twice the c_n of equation 5.
        """
        return jax.lax.complex(*self.moment_parts())

    @jax.jit
    def prob(self, x: Any) -> Array:
        """Density |A(x)|^2 / (2 c_0) at x, mixed with the floor, per unit of x; never negative.

        Any real x is accepted: the density has period 2.

        Source: https://kexue.fm/archives/10007, equation 14, evaluated as |A|^2 / (2 c_0).
        """
        u, v = series.evaluate(*self._unit_coefficients(), checks.real(x, self.re.dtype))
        return (1.0 - self.floor) * 0.5 * (u**2 + v**2) + 0.5 * self.floor

    @jax.jit
    def log_prob(self, x: Any) -> Array:
        """Natural logarithm of the density at x; -inf at roots and where the density underflows."""
        return jnp.log(self.prob(x))

    @jax.jit
    def cdf(self, x: Any) -> Array:
        """P(X <= x) = (x+1)/2 + sum_n Re[gamma_n (exp(i pi n x) - (-1)^n) / (i pi n)].

        Source: https://kexue.fm/archives/10007, equation 17, with two slips corrected.
        """
        x = angles.limit(checks.real(x, self.re.dtype), -1.0, 1.0)
        gamma = self.moments()
        # gamma_n / (i pi n) = (Im gamma_n - i Re gamma_n) / (pi n)
        n = jnp.pi * jnp.arange(1, self.order + 1)
        zero = jnp.zeros((*gamma.shape[:-1], 1), self.re.dtype)
        re = jnp.concatenate([zero, gamma.imag / n], axis=-1)
        im = jnp.concatenate([zero, -gamma.real / n], axis=-1)
        wave, _ = series.evaluate(re, im, x)
        start, _ = series.evaluate(re, im, jnp.full((), -1.0, self.re.dtype))
        return angles.rounded(0.5 * (x + 1.0) + wave - start, 0.0, 1.0)

    @jax.jit
    def survival_function(self, x: Any) -> Array:
        """P(X > x), computed as the distribution function of the mirrored density at -x."""
        return self.mirror().cdf(-checks.real(x, self.re.dtype))

    @jax.jit
    def log_cdf(self, x: Any) -> Array:
        """Log P(X <= x), accurate in the lower tail too."""
        return self.log_interval_prob(-1.0, angles.limit(checks.real(x, self.re.dtype), -1.0, 1.0))

    @jax.jit
    def log_survival_function(self, x: Any) -> Array:
        """Log P(X > x), accurate in the upper tail too."""
        return self.log_interval_prob(angles.limit(checks.real(x, self.re.dtype), -1.0, 1.0), 1.0)

    @jax.jit
    def log_interval_prob(self, lower: Any, upper: Any) -> Array:
        """Log P(lower <= X <= upper) in nats, as for the bins of entropy coding; see `masses`.

        Args:
            lower, upper: ends with lower <= upper <= lower + 2, as points of the circle: the
                interval may cross 1, as the one from 0.9 to 1.1 does. NaN where upper < lower.

        Source: derived from https://kexue.fm/archives/10007, equation 14, integrated over a bin.
        """
        dtype = self.re.dtype
        lower, upper = checks.real(lower, dtype, "lower"), checks.real(upper, dtype, "upper")
        half = 0.5 * (upper - lower)
        inside = angles.limit(half, 0.0, 1.0)
        mean = self.log_average(lower + half, inside)
        return jnp.log(jnp.where(half >= 0, inside, jnp.nan)) + mean

    def log_average(self, middle: Array, half: Array) -> Array:
        """Log of the mean of 2 p over [middle - half, middle + half], half in [0, 1]."""
        return masses.log_average(self.moment_parts(), middle, half, self.log_prob_near_0)

    def log_prob_near_0(self, x: Array) -> Array:
        """As `log_prob`, but also right where |A(x)|^2 underflows, as next to a root at 0."""
        parts = series.evaluate(*self._unit_coefficients(), x)
        return series.log_mixture(*parts, self.floor)

    @jax.jit
    def interval_prob(self, lower: Any, upper: Any) -> Array:
        """P(lower <= X <= upper), accurate for narrow and empty bins too; see `log_interval_prob`.

        For an arc across x = 1 add 2 to its upper end; NaN if upper < lower.
        """
        return jnp.exp(self.log_interval_prob(lower, upper))

    @jax.jit
    def characteristic_function(self, t: Any) -> Array:
        """E[exp(i t X)] for X in [-1, 1): sum_{|n|<=N} gamma_n sin(t + n pi) / (t + n pi).

        Source: derived from https://kexue.fm/archives/10007, equation 14.
        """
        t = checks.real(t, self.re.dtype, "t")[..., None]
        re, im = self.moment_parts()
        n = jnp.arange(1, self.order + 1)
        ahead, behind = jnp.sinc(t / jnp.pi + n), jnp.sinc(t / jnp.pi - n)
        real = jnp.sinc(t[..., 0] / jnp.pi) + jnp.sum(re * (ahead + behind), axis=-1)
        return jax.lax.complex(real, jnp.sum(im * (ahead - behind), axis=-1))

    @jax.jit
    def entropy(self) -> Array:
        """Differential entropy -E[log p(X)] in nats, in closed form (see `information`).

        Source: derived from https://kexue.fm/archives/10007, equation 14, by Parseval's identity.
        """
        return -information.expected_log(self, self)

    @jax.jit
    def kl_divergence(self, other: "PeriodicDensity") -> Array:
        """KL(self || other) = E[log p(X) - log p'(X)] in nats, in closed form.

        Raises:
            ValueError: another kind of density.

        Source: derived from https://kexue.fm/archives/10007, equation 14, by Parseval's identity.
        """
        checks.kind("other", other, PeriodicDensity)
        return information.expected_log(self, self) - information.expected_log(self, other)

    @jax.jit
    def rotate(self, shift: Any) -> "PeriodicDensity":
        """The density of X + shift on the circle; `shift` has the batch shape."""
        cos, sin = angles.unit(
            -checks.real(shift, self.re.dtype, "shift")[..., None], jnp.arange(self.order + 1)
        )
        re, im = self.re * cos - self.im * sin, self.re * sin + self.im * cos
        floor = jnp.broadcast_to(self.floor, re.shape[:-1])
        return PeriodicDensity.tree_unflatten(None, (re, im, floor))

    @jax.jit
    def convolve(self, other: "PeriodicDensity") -> "PeriodicDensity":
        """The density of X + Y on the circle for independent X and Y: moments multiply.

        Raises:
            ValueError: another kind of density.
        """
        checks.kind("other", other, PeriodicDensity)
        order = min(self.order, other.order)
        (r, s), (t, u) = (tuple(m[..., :order] for m in d.moment_parts()) for d in (self, other))
        b = factorisation.factor_of_moments(r * t - s * u, r * u + s * t)
        return PeriodicDensity.tree_unflatten(None, (*b, jnp.zeros_like(b[0][..., 0])))

    @jax.jit
    def modes(self) -> Array:
        """The modes in ascending order: at most N, [..., N], padded with NaN."""
        cells = 32 * (self.order + 1)
        # Symmetry puts modes at 0 and 1: in the middle of a cell they are found exactly.
        edges = -1.0 + (jnp.arange(cells + 1, dtype=self.re.dtype) - 0.5) * (2.0 / cells)
        edges = edges.reshape(-1, *(1,) * len(self.batch_shape))
        slope, error = extrema.slope_of_square(*self._unit_coefficients(), 1.0 - self.floor)
        modes = extrema.maxima(slope, edges, self.order, error(edges), period=2.0)
        return jnp.sort(angles.wrap(modes), axis=-1)

    @jax.jit
    def mode(self) -> Array:
        """The point of largest density; NaN for the uniform density, which has none."""
        modes = jnp.moveaxis(self.modes(), -1, 0)
        if self.order == 0:
            return jnp.full(self.batch_shape, jnp.nan, self.re.dtype)
        highest = jnp.nanargmax(jax.lax.stop_gradient(self.prob(modes)), axis=0)
        return jnp.take_along_axis(modes, highest[None], axis=0)[0]

    def plot(self, ax: Any = None, **line: Any) -> Any:
        """Draw the density (a single one) with Matplotlib; see `plotting.plot`."""
        points = jnp.linspace(-1.0, 1.0, plotting.points(self.order))
        return plotting.plot(self, points, ax, **line)

    def half_turn(self) -> "PeriodicDensity":
        """The density of X + 1, exactly: every other coefficient changes its sign."""
        sign = 1.0 - 2.0 * (jnp.arange(self.order + 1) % 2)
        return PeriodicDensity.tree_unflatten(None, (self.re * sign, self.im * sign, self.floor))

    def mirror(self) -> "PeriodicDensity":
        """The density of -X (conjugated coefficients)."""
        return PeriodicDensity.tree_unflatten(None, (self.re, -self.im, self.floor))

    @jax.jit
    def quantile(self, probability: Any) -> Array:
        """The point x with cdf(x) = probability; NaN outside [0, 1].

        Many levels of one density share a table (see `sampling`); otherwise each is found by a
        bracketed Newton iteration. Gradients are implicit: dx/dtheta = -(dP/dtheta) / p for
        parameters theta, P the cdf, and dx/du = 1 / p for u the probability.

        Source: https://kexue.fm/archives/10007, below equation 17.
        """
        u = checks.real(probability, self.re.dtype, "probability")
        u = jnp.broadcast_to(u, jnp.broadcast_shapes(u.shape, self.batch_shape))
        x = _quantile(self, angles.limit(u, 0.0, 1.0))
        return jnp.where((u >= 0) & (u <= 1), x, jnp.nan)

    def sample(self, *, seed: Seed, sample_shape: Shape = ()) -> Array:
        """Samples of shape sample_shape + batch_shape, with reparameterised gradients.

        An integer seed stands for `jax.random.key(seed)`, an integer shape n for (n,).

        Raises:
            ValueError: no key or no shape.

        Source: https://kexue.fm/archives/10007, below equation 17.
        """
        seed, shape = checks.draws(seed, sample_shape)
        shape = (*shape, *self.batch_shape)
        return self.quantile(jax.random.uniform(seed, shape, self.re.dtype))

    @jax.jit
    def mean(self) -> Float[Array, "..."]:
        """E[X] = sum_n 2 (-1)^n / (n pi) Im gamma_n, for X in [-1, 1).

        Source: derived from https://kexue.fm/archives/10007, equation 14.
        """
        n = jnp.arange(1, self.order + 1)
        return _weighted(self.moments().imag, 2.0 * _sign(n) / (n * jnp.pi))

    @jax.jit
    def regulariser(self) -> Float[Array, "..."]:
        """Roughness of the normalised density: integral of p'(x)^2 = pi^2 sum_n n^2 |gamma_n|^2.

        The paper's penalty, of the *unnormalised* f, vanishes as all coefficients shrink.

        Source: https://kexue.fm/archives/10007, equation 16, and arXiv 2402.15345, equation 10,
        without gamma and for p in place of f.
        """
        n = jnp.arange(1, self.order + 1)
        return jnp.pi**2 * _weighted(jnp.abs(self.moments()) ** 2, n**2)


@jax.custom_jvp
def _quantile(density: PeriodicDensity, u: Array) -> Array:
    cells = sampling.cells(density.order)
    if density.batch_shape == () and u.size >= cells // 4:
        x = sampling.invert(u, density.cdf, density.prob, cells)
    else:
        x = sampling.solve(u, density.cdf, density.prob)
    return jnp.where(u <= 0, -1.0, jnp.where(u >= 1, 1.0, x))


@_quantile.defjvp
def _quantile_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    density, u = primals
    x = _quantile(density, u)
    _, change = jax.jvp(lambda d: d.cdf(x), (density,), (tangents[0],))
    least = 8.0 * jnp.finfo(x.dtype).eps  # below it `change` has no digits
    return x, (tangents[1] - change) / jnp.maximum(density.prob(x), least)


def _weighted(values: Array, weights: Array) -> Array:
    """Sums over the last axis, as a product of matrices: as a sum of products jaxlib 0.10.2 gets it
    wrong on CPUs from 32 769 rows on (jax issue 39103).
    """
    return jnp.matmul(values, weights.astype(values.dtype), precision="highest")


def _sign(n: Array) -> Array:
    return 1.0 - 2.0 * (n % 2)
