"""Distributions whose diffusion is known in closed form, for tests and as teachers.

Each has `sample(key, n)`; `denoise(z, logsnr[, condition])`, the mean of x given z, from which any
prediction follows; and `log_prob(z, logsnr)`, the log-density of the noisy variable z in nats.

    Gaussian   a normal distribution with any covariance
    Mixture    isotropic Gaussian components, optionally conditioned on one of them
    Field      a stationary Gaussian field on a torus, by its spectrum

Notation as in `process`.

Source: conditional normal laws; Bishop, "Pattern Recognition and Machine Learning" (2006), section
2.3.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from diffusion import process


def denoiser(law: Any, prediction: str = "x", sigma_data: float = 0.5) -> Callable[..., Array]:
    """The optimal denoiser (z, logsnr[, condition]) -> prediction; `sigma_data` is that of "F".

    Raises:
        ValueError: an unknown prediction.
    """
    process.check("prediction", prediction)

    def predict(z: Array, logsnr: Any, *condition: Any) -> Array:
        x = law.denoise(z, logsnr, *condition)
        return process.convert(x, z, logsnr, "x", prediction, sigma_data)

    return predict


class Gaussian(NamedTuple):
    """N(mean, covariance), by the eigenvalues of the covariance.

    Attributes:
        mean: [D].
        basis: [D, D], eigenvectors in columns.
        variances: [D], eigenvalues.
    """

    mean: Array
    basis: Array
    variances: Array

    def sample(self, key: Array, n: int) -> Float[Array, "n D"]:
        """Draws."""
        noise = jax.random.normal(key, (n, len(self.mean)), self.mean.dtype)
        return self.mean + (jnp.sqrt(self.variances) * noise) @ self.basis.T

    def denoise(self, z: Float[Array, "B D"], logsnr: Any) -> Float[Array, "B D"]:
        """E[x | z].

        Source: the conditional mean of a joint normal law, a standard result.
        """
        alpha, sigma = process.alpha_sigma(process.spread(logsnr, z))
        inside = (z - alpha * self.mean) @ self.basis
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        return self.mean + (gain * inside) @ self.basis.T

    def log_prob(self, z: Float[Array, "B D"], logsnr: Any) -> Float[Array, "B"]:
        """Log-density of the diffused variable."""
        alpha, sigma = process.alpha_sigma(process.spread(logsnr, z))
        inside = (z - alpha * self.mean) @ self.basis
        spread = alpha**2 * self.variances + sigma**2
        return -0.5 * jnp.sum(inside**2 / spread + jnp.log(2 * math.pi * spread), axis=-1)

    def flow(self, z: Float[Array, "B D"], logsnr: Any, after: Any) -> Float[Array, "B D"]:
        """Exact solution of the probability-flow ODE, from z at `logsnr` to log-SNR `after`.

        Source: derived from Karras et al. (arXiv 2206.00364), equation 4, for a normal law.
        """
        here, there = (process.alpha_sigma(process.spread(one, z)) for one in (logsnr, after))
        spreads = [jnp.sqrt(a**2 * self.variances + s**2) for a, s in (here, there)]
        inside = (z - here[0] * self.mean) @ self.basis
        return there[0] * self.mean + (inside * spreads[1] / spreads[0]) @ self.basis.T


def gaussian(mean: Any, covariance: Any) -> Gaussian:
    """The normal law with a mean [D] and a covariance [D, D].

    Raises:
        ValueError: shapes that do not fit, or eigenvalues below 0.
    """
    mean, covariance = jnp.asarray(mean, float), jnp.asarray(covariance, float)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"covariance: expected [D, D] for a mean [D], got {covariance.shape}, {mean.shape}"
        )
    variances, basis = jnp.linalg.eigh(covariance)
    if not bool(jnp.all(variances > -1e-6 * jnp.max(jnp.abs(variances)))):
        raise ValueError("covariance: expected no eigenvalue below 0")
    return Gaussian(mean, basis, jnp.maximum(variances, 0.0))


class Mixture(NamedTuple):
    """sum_k w_k N(mu_k, s_k^2 I).

    Attributes:
        weights: [K], adding to 1.
        means: [K, D].
        deviations: [K].
    """

    weights: Array
    means: Array
    deviations: Array

    def sample(self, key: Array, n: int, condition: Any = None) -> Float[Array, "n D"]:
        """Draws [n, D]; `condition` [n] gives their components, -1 a random one."""
        first, second = jax.random.split(key)
        k = jax.random.choice(first, len(self.weights), (n,), p=self.weights)
        if condition is not None:
            k = jnp.where(jnp.asarray(condition) < 0, k, condition)
        noise = jax.random.normal(second, (n, self.means.shape[1]), self.means.dtype)
        return self.means[k] + self.deviations[k][:, None] * noise

    def _terms(self, z: Array, logsnr: Any) -> tuple[Array, Array, Array]:
        """Log of each weight times density, [B, K]; gains [B, K]; differences [B, K, D]."""
        place = process.spread(logsnr, z)
        alpha, sigma = process.alpha_sigma(jnp.broadcast_to(place, (len(z), 1)))
        variance = alpha**2 * self.deviations**2 + sigma**2
        difference = z[:, None] - alpha[..., None] * self.means
        squared = jnp.sum(difference**2, axis=-1) / variance
        log_density = -0.5 * (squared + z.shape[-1] * jnp.log(2 * math.pi * variance))
        gain = alpha * self.deviations**2 / variance
        return jnp.log(self.weights) + log_density, gain, difference

    def denoise(
        self, z: Float[Array, "B D"], logsnr: Any, condition: Any = None
    ) -> Float[Array, "B D"]:
        """E[x | z], given also the component `condition` [B], if any; -1 is an unknown one.

        Source: Bayes' rule over the components of a mixture, a standard result.
        """
        logits, gain, difference = self._terms(z, logsnr)
        if condition is not None:
            k = jnp.asarray(condition)[:, None]
            mine = jnp.arange(len(self.weights)) == k
            logits = jnp.where((k < 0) | mine, logits, -jnp.inf)
        share = jax.nn.softmax(logits)
        each = self.means + gain[..., None] * difference
        return jnp.sum(share[..., None] * each, axis=1)

    def log_prob(self, z: Float[Array, "B D"], logsnr: Any) -> Float[Array, "B"]:
        """Log-density of the diffused variable."""
        return jax.nn.logsumexp(self._terms(z, logsnr)[0], axis=-1)


def mixture(weights: Any, means: Any, deviations: Any) -> Mixture:
    """A mixture of round components; weights are relative and are divided by their sum.

    Raises:
        ValueError: shapes that do not fit, weights or deviations that are not positive.
    """
    weights, means, deviations = (jnp.asarray(a, float) for a in (weights, means, deviations))
    if means.ndim != 2 or weights.shape != deviations.shape or weights.shape != means.shape[:1]:
        raise ValueError(
            "weights, means, deviations: expected [K], [K, D], [K], got "
            f"{weights.shape}, {means.shape}, {deviations.shape}"
        )
    if not bool(jnp.all(weights > 0) & jnp.all(deviations > 0) & jnp.all(jnp.isfinite(means))):
        raise ValueError("weights, means, deviations: expected positive, finite, positive numbers")
    return Mixture(weights / jnp.sum(weights), means, deviations)


def ring(modes: int = 8, radius: float = 1.0, deviation: float = 0.1) -> Mixture:
    """A mixture of equal components, evenly spaced on a circle in the plane.

    Raises:
        ValueError: no modes.
    """
    if modes < 1:
        raise ValueError(f"modes: expected at least 1, got {modes}")
    angle = 2 * jnp.pi * jnp.arange(modes) / modes
    means = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return mixture(jnp.ones(modes), means, jnp.full(modes, deviation))


@struct.dataclass
class Field:
    """A stationary Gaussian field of mean 0 on a torus, [B, *space, 1].

    Attributes:
        spectrum: [*space], the variance of each orthonormal Fourier coefficient.
    """

    spectrum: Array

    def _filter(self, x: Array, gain: Array) -> Array:
        axes = tuple(range(1, x.ndim - 1))
        gain = gain[..., None] if gain.ndim < x.ndim else gain
        return jnp.fft.ifftn(jnp.fft.fftn(x, axes=axes) * gain, axes=axes).real

    def sample(self, key: Array, n: int) -> Array:
        """Draws, [n, *space, 1]."""
        noise = jax.random.normal(key, (n, *self.spectrum.shape, 1), self.spectrum.dtype)
        return self._filter(noise, jnp.sqrt(self.spectrum))

    def _powers(self, logsnr: Any, z: Array) -> tuple[Array, Array]:
        alpha, sigma = process.alpha_sigma(process.spread(logsnr, z))
        power = self.spectrum[None, ..., None]
        return alpha * power, alpha**2 * power + sigma**2

    def denoise(self, z: Array, logsnr: Any) -> Array:
        """E[x | z], a filter.

        Source: Wiener's filter, a standard result.
        """
        signal, total = self._powers(logsnr, z)
        return self._filter(z, signal / total)

    def log_prob(self, z: Array, logsnr: Any) -> Array:
        """Log-density of the diffused variable, [B]."""
        _, total = self._powers(logsnr, z)
        axes = tuple(range(1, z.ndim - 1))
        size = math.prod(self.spectrum.shape)
        power = jnp.abs(jnp.fft.fftn(z, axes=axes)) ** 2 / size
        each = power / total + jnp.log(2 * math.pi * jnp.broadcast_to(total, z.shape))
        return -0.5 * jnp.sum(each.reshape(len(z), -1), axis=-1)
