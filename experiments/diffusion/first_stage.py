"""Autoencoders as a first stage: training, and images to normalised latents and back."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import latent
from diffusion.autoencoder import Autoencoder
from experiments.diffusion.arms import Loop
from experiments.harness import compiling, sharding, training
from experiments.harness.image_sets import Images
from experiments.harness.training import TrainingConfig

CHUNK = 500  # images encoded or decoded at once


@dataclass(frozen=True)
class AutoencoderConfig:
    """An autoencoder and its loss.

    Attributes:
        channels: channels of the first level, at full resolution.
        multipliers: channels of each level over `channels`; sides shrink by 2^(levels - 1).
        blocks: blocks of each level.
        latent: channels of the latents.
        beta: weight of the KL divergence of latents from N(0, 1), against the squared error.
    """

    channels: int = 16
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    latent: int = 2
    beta: int | float = 1e-2

    def __post_init__(self):
        if min(self.channels, self.latent, *self.multipliers, 1) < 1 or self.blocks < 0:
            raise ValueError(
                "autoencoder.channels, latent, multipliers, blocks: expected at least 1 and 0, got "
                f"{self.channels}, {self.latent}, {self.multipliers}, {self.blocks}"
            )
        if len(self.multipliers) < 2 or not self.beta >= 0:
            raise ValueError(
                "autoencoder.multipliers, beta: expected at least two levels and a weight of at "
                f"least 0, got {self.multipliers}, {self.beta}"
            )

    def network(self, channels: int) -> Autoencoder:
        """For images of so many channels."""
        return Autoencoder(self.channels, self.multipliers, self.blocks, self.latent, channels)


def make_problem(config: AutoencoderConfig, shape: tuple[int, ...]) -> training.Problem:
    """Reconstruction of images [H, W, C], for loops that bring their batches themselves."""
    network = config.network(shape[-1])
    apply: Any = network.apply

    def init(key: jax.Array) -> Any:
        return network.init(key, jnp.zeros((1, *shape)), key)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        x_hat, q = apply(params, batch["x"], key)
        return jnp.mean(latent.loss(batch["x"], x_hat, q, config.beta)), {}

    return training.Problem(init, loss, lambda step: None, lambda params: {})


@dataclass(frozen=True)
class FirstStage:
    """A trained autoencoder with the normalisation of its latents.

    Attributes:
        network, params: of the autoencoder.
        normalisation: from the latents of the training images.
    """

    network: Any
    params: Any
    normalisation: latent.Normalisation

    def encode(self, x: np.ndarray, seed: int | None = None) -> np.ndarray:
        """Normalised latents: the most probable ones, or samples of their posteriors."""
        z = _encoded(self.network, self.params, x, seed)
        return np.asarray(self.normalisation.normalise(jnp.asarray(z)))

    def decode(self, z: Any) -> np.ndarray:
        """Images of normalised latents."""
        restored = np.asarray(self.normalisation.restore(jnp.asarray(z)))
        return _chunked(lambda z, _: _compiled(self.network, "decode")(self.params, z), restored)

    def latents(self, images: Images) -> Images:
        """A set's latents in place of its images: samples, so that diffusion meets their spread."""
        train, test = self.encode(images.train, 0), self.encode(images.test, 1)
        return replace(images, train=train, test=test, count=len(train), source=None)


def train(
    config: AutoencoderConfig,
    images: Images,
    settings: TrainingConfig,
    layout: sharding.Layout = sharding.DEFAULT,
) -> FirstStage:
    """Train on a set."""
    shape = images.train.shape[1:]
    loop = Loop("autoencoder", make_problem(config, shape), images, settings, layout)
    params, _ = loop(settings.seed)
    network = config.network(shape[-1])
    z = jnp.asarray(_encoded(network, params, images.train, 0))
    return FirstStage(network, params, latent.normalisation(z))


def _encoded(network: Any, params: Any, x: np.ndarray, seed: int | None) -> np.ndarray:
    def one(x: np.ndarray, start: int) -> jax.Array:
        q = _compiled(network, "encode")(params, x)
        return (
            q.mode() if seed is None else q.sample(jax.random.fold_in(jax.random.key(seed), start))
        )

    return _chunked(one, x)


def _chunked(function: Callable[[np.ndarray, int], Any], x: np.ndarray) -> np.ndarray:
    """The function of parts of one size, the last one filled up."""
    parts = []
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        filled = np.concatenate([part, np.zeros((CHUNK - len(part), *x.shape[1:]), x.dtype)])
        parts.append(np.asarray(function(filled, start))[: len(part)])
    return np.concatenate(parts)


@functools.lru_cache(maxsize=8)
def _compiled(network: Any, method: str) -> Callable[..., Any]:
    return compiling.compile_call(lambda params, x: network.apply(params, x, method=method))
