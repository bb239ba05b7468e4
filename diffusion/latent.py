"""Latent spaces: what an autoencoder makes of an image, its loss, and latents of unit deviation.

Notation
    x, x_hat     images [B, H, W, C] and their reconstructions
    q(z | x)     N(mean, exp(log_variance)), independent elements: the posterior of latents
    beta         weight of the divergence of q from N(0, 1)

Diffusion works on `normalisation(z).normalise(z)`: its log-SNR is that of data of unit variance.

Source: Kingma & Welling (arXiv 1312.6114); Rombach et al. (2112.10752), section 3.1 and appendix
G, without the perceptual and adversarial terms.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from diffusion.levels import concrete
from diffusion.process import floating

LOG_VARIANCE = (-30.0, 20.0)  # bounds, nats


@struct.dataclass
class Posterior:
    """Diagonal Gaussians over latents, one per example.

    Attributes:
        mean, log_variance: [B, h, w, c], the latter in nats.
    """

    mean: Array
    log_variance: Array

    def mode(self) -> Array:
        """The most probable latents, [B, h, w, c]."""
        return self.mean

    def sample(self, seed: jax.Array) -> Array:
        """Latents, [B, h, w, c].

        Source: Kingma & Welling (arXiv 1312.6114): mean + deviation noise.
        """
        noise = jax.random.normal(seed, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def kl_divergence(self) -> Float[Array, "B"]:
        """From N(0, 1), nats an example, summed over its latents.

        Source: Kingma & Welling (arXiv 1312.6114); the divergence of normal laws.
        """
        excess = jnp.expm1(self.log_variance) - self.log_variance
        wide = jnp.promote_types(self.mean.dtype, jnp.float32)
        each = 0.5 * (jnp.square(self.mean.astype(wide)) + excess)
        return jnp.sum(each, axis=tuple(range(1, each.ndim)))


def posterior(moments: Float[Array, "B *space two_c"]) -> Posterior:
    """Of means and log-variances side by side in the last axis, the latter kept within bounds.

    Raises:
        ValueError: an odd number of channels, or none.
    """
    if moments.ndim < 2 or moments.shape[-1] % 2 or not moments.shape[-1]:
        raise ValueError(f"moments: expected an even number of channels, got {moments.shape}")
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return Posterior(mean, jnp.clip(log_variance, *LOG_VARIANCE))


def loss(x: Array, x_hat: Array, q: Posterior, beta: Any = 1e-2) -> Float[Array, "B"]:
    """Squared error and divergence, sums over an example:  |x - x_hat|^2 + beta KL(q | N(0, 1)).

    Up to a constant, this is beta times the negative evidence lower bound (ELBO) in nats of a
    Gaussian decoder whose pixels have variance beta / 2.

    Args:
        x: images in floating point, in [-1, 1] by convention.
        beta: a number, or one an example [B].

    Raises:
        ValueError: shapes that differ, whole numbers, a beta that is known and negative.

    Source: Kingma & Welling (arXiv 1312.6114); Rombach et al. (2112.10752), section 3.1.
    """
    if x.shape != x_hat.shape:
        raise ValueError(f"x_hat: expected the shape of x, {x.shape}, got {x_hat.shape}")
    if q.mean.shape[:1] != x.shape[:1]:
        raise ValueError(f"q: expected as many as x, {len(x)}, got {q.mean.shape}")
    floating("x", x)
    beta = jnp.asarray(beta)
    if beta.shape not in ((), x.shape[:1]):
        raise ValueError(f"beta: expected a number or {x.shape[:1]}, got {beta.shape}")
    known = concrete(beta)
    if known is not None and not np.all(known >= 0):
        raise ValueError(f"beta: expected no negative weight, got {beta}")
    wide = jnp.promote_types(x.dtype, jnp.float32)
    error = jnp.square(x.astype(wide) - x_hat.astype(wide))
    return jnp.sum(error, axis=tuple(range(1, error.ndim))) + beta * q.kl_divergence()


@struct.dataclass
class Normalisation:
    """Standardises latents channel by channel to mean 0 and standard deviation 1, and back.

    Attributes:
        mean, deviation: those of the latents before normalisation, [c].
    """

    mean: Array
    deviation: Array

    def normalise(self, z: Array) -> Array:
        """For the diffusion model."""
        _channels(z, self.mean)
        return (z - self.mean) / self.deviation

    def restore(self, z: Array) -> Array:
        """For the decoder."""
        _channels(z, self.mean)
        return z * self.deviation + self.mean


def normalisation(z: Float[Array, "B *space c"]) -> Normalisation:
    """The `Normalisation` by means and standard deviations over the latents of many images.

    Raises:
        ValueError: a channel that is constant up to rounding, or values that are not finite; where
            z is traced, deviations are NaN instead.

    Source: Rombach et al. (arXiv 2112.10752), appendix G; channel by channel and centred here.
    """
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    axes, rounding = tuple(range(z.ndim - 1)), 100.0 * float(jnp.finfo(z.dtype).eps)
    mean, deviation = jnp.mean(z, axes), jnp.std(z, axes)
    good = jnp.isfinite(deviation) & (deviation > rounding * jnp.max(jnp.abs(z), axes))
    known = concrete(good)
    if known is None:
        return Normalisation(mean, jnp.where(good, deviation, jnp.nan))
    if not known.all():
        raise ValueError(f"z: expected finite latents, no channel constant, got {deviation}")
    return Normalisation(mean, deviation)


def _channels(z: Array, mean: Array) -> None:
    if z.shape[-1:] != mean.shape[-1:]:
        raise ValueError(f"z: expected {mean.shape[-1]} channels, got {z.shape}")
