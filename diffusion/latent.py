"""Latent spaces: what an autoencoder says of an image, its loss, and latents of unit deviation.

Notation
    x, x_hat     images [B, H, W, C] and their reconstructions
    q(z | x)     N(mean, exp(log_variance)), independent elements: the posterior of latents
    beta         weight of the divergence of q from N(0, 1)

Diffusion works on `normalisation(z).normalise(z)`: schedules of log-SNR are made for data of unit
variance, which latents are not by themselves.

Source: Kingma & Welling (arXiv 1312.6114); Rombach et al. (2112.10752), section 3.1 and appendix
G, without the perceptual and adversarial terms.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

LOG_VARIANCE = (-30.0, 20.0)  # bounds, nats


@struct.dataclass
class Posterior:
    """Gaussians over latents, one an example.

    Attributes:
        mean, log_variance: [B, h, w, c], the latter in nats.
    """

    mean: Array
    log_variance: Array

    def mode(self) -> Array:
        """The most probable latents, [B, h, w, c]."""
        return self.mean

    def sample(self, seed: jax.Array) -> Array:
        """Latents, [B, h, w, c]."""
        noise = jax.random.normal(seed, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def kl_divergence(self) -> Float[Array, "B"]:
        """From N(0, 1), nats an example, summed over its latents."""
        excess = jnp.expm1(self.log_variance) - self.log_variance
        each = 0.5 * (jnp.square(self.mean) + excess)
        return jnp.sum(each, axis=tuple(range(1, each.ndim)))


def posterior(moments: Float[Array, "B *space two_c"]) -> Posterior:
    """Of means and log-variances side by side in the last axis, the latter kept within bounds.

    Raises:
        ValueError: an odd number of channels.
    """
    if moments.shape[-1] % 2:
        raise ValueError(f"moments: expected an even number of channels, got {moments.shape}")
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return Posterior(mean, jnp.clip(log_variance, *LOG_VARIANCE))


def loss(x: Array, x_hat: Array, q: Posterior, beta: Any = 1e-2) -> Float[Array, "B"]:
    """Squared error and divergence, sums over an example:  |x - x_hat|^2 + beta KL(q | N(0, 1)).

    This is beta times the negative evidence bound, in nats and but for a constant, of a decoder
    whose pixels have variance beta / 2.

    Raises:
        ValueError: images of different shapes.
    """
    if x.shape != x_hat.shape:
        raise ValueError(f"x_hat: expected the shape of x, {x.shape}, got {x_hat.shape}")
    error = jnp.square(x - x_hat)
    return jnp.sum(error, axis=tuple(range(1, error.ndim))) + beta * q.kl_divergence()


@struct.dataclass
class Normalisation:
    """Latents to unit deviation and back, channel by channel.

    Attributes:
        mean, deviation: [c].
    """

    mean: Array
    deviation: Array

    def normalise(self, z: Array) -> Array:
        """For the diffusion model."""
        return (z - self.mean) / self.deviation

    def restore(self, z: Array) -> Array:
        """For the decoder."""
        return z * self.deviation + self.mean


def normalisation(z: Float[Array, "B *space c"]) -> Normalisation:
    """From latents of many images.

    Raises:
        ValueError: a channel that is the same everywhere, or numbers that are not finite; not
            where z is traced, where they give infinite latents or NaN.
    """
    axes = tuple(range(z.ndim - 1))
    mean, deviation = jnp.mean(z, axes), jnp.std(z, axes)
    try:
        known = np.asarray(deviation)
    except jax.errors.TracerArrayConversionError:
        return Normalisation(mean, deviation)
    if not (np.isfinite(known).all() and known.min(initial=1.0) > 0):
        raise ValueError(f"z: expected finite latents, no channel constant, deviations are {known}")
    return Normalisation(mean, deviation)
