"""Baselines: Gaussian mixtures on the real line.

`MixtureParameters` is a pytree to be trained by gradient descent; `mixture_by_em` fits a mixture
on the host; `mixture_with_correction` multiplies a mixture by a Fourier basis density. The other
baseline is `deep_factorized`.

Source: https://kexue.fm/archives/10007, equation 3, with weights in place of 1 / K.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fourier_density import fitting, line_search, pytrees, transforms

MAX_ITERATIONS = 500
POLISHING = 10  # of them on all the data, after a summary of it
TOLERANCE = 1e-7  # nats per sample
STARTS = 4


@pytrees.dataclass
class MixtureParameters:
    """A Gaussian mixture with unconstrained parameters, [K] each: 3 K - 1 degrees of freedom.

    Source: https://kexue.fm/archives/10007, equation 3, with weights in place of 1 / K.
    """

    logits: Any
    means: Any
    log_scales: Any

    def distribution(self) -> transforms.GaussianMixture:
        """With weights that sum to one and positive scales."""
        weights = jax.nn.softmax(self.logits)
        return transforms.GaussianMixture(weights, self.means, jnp.exp(self.log_scales))

    def log_prob(self, x: Array) -> Array:
        """Natural logarithm of the density at x."""
        return self.distribution().log_prob(x)


def init_mixture(samples: Array, components: int) -> MixtureParameters:
    """Initial values: equal weights, means at quantiles of the samples, scales std(samples) / K.

    Args:
        samples: [n].
        components: K >= 1.
    """
    levels = (jnp.arange(components) + 0.5) / components
    means = jnp.quantile(samples, levels)
    scale = jnp.std(samples) / components
    logits = jnp.zeros(components, samples.dtype)
    return MixtureParameters(logits, means, jnp.full(components, jnp.log(scale), samples.dtype))


def mixture_by_em(samples: Any, components: int, *, seed: int = 0) -> transforms.GaussianMixture:
    """Fit by expectation maximisation from several starts, on the host in float64.

    Args:
        samples: [n].
        components: K >= 1.
        seed: of the starts: one with means at quantiles of the samples, three at random samples.

    Raises:
        ValueError: fewer samples than components.

    Source: expectation maximisation (Dempster, Laird, Rubin 1977), for https://kexue.fm/archives/10007,
    equation 3, with weights in place of 1 / K.
    """
    x = np.asarray(samples, np.float64)
    if not 1 <= components <= x.size:
        raise ValueError(
            f"components: expected 1 to {x.size} (the number of samples), got {components}"
        )
    w = np.full(x.size, 1.0 / x.size)
    nodes, mass = line_search.summarise(x, w)
    generator = np.random.default_rng(seed)
    starts = [_first_guess(x, np.quantile(x, (np.arange(components) + 0.5) / components))]
    starts += [_first_guess(x, generator.choice(x, components)) for _ in range(STARTS - 1)]
    ends = [_maximise_expectation(nodes, mass, start, MAX_ITERATIONS) for start in starts]
    _, best = max(ends, key=lambda end: end[0])
    _, (weights, means, scales) = _maximise_expectation(x, w, best, POLISHING)
    return transforms.GaussianMixture(weights, means, scales)


def _first_guess(x: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, ...]:
    """Equal weights; scales that reach the neighbouring means."""
    means = np.sort(means) + 1e-6 * x.std() * np.arange(len(means))
    gaps = np.diff(means, prepend=means[0] - x.std(), append=means[-1] + x.std())
    scales = np.maximum(0.5 * np.minimum(gaps[1:], gaps[:-1]), 1e-3 * x.std())
    return np.full(len(means), 1.0 / len(means)), means, scales


def _maximise_expectation(
    x: np.ndarray, w: np.ndarray, start: tuple[np.ndarray, ...], iterations: int
) -> tuple[float, tuple[np.ndarray, ...]]:
    """Iterations until the log-likelihood, returned first, rises no more."""
    weights, means, scales = start
    smallest = 1e-4 * x.std()  # a component must not collapse onto one sample
    last = reached = -np.inf
    for _ in range(iterations):
        terms = np.log(weights / scales) - 0.5 * ((x[:, None] - means) / scales) ** 2
        largest = terms.max(1, keepdims=True)
        shares = np.exp(terms - largest)
        total = shares.sum(1, keepdims=True)
        reached = float(w @ (largest + np.log(total))[:, 0])
        if reached - last < TOLERANCE:
            break
        last = reached
        shares *= w[:, None] / total
        weights = np.maximum(shares.sum(0), 1e-12)
        means = shares.T @ x / weights
        variance = np.sum(shares * (x[:, None] - means) ** 2, axis=0) / weights
        scales = np.sqrt(np.maximum(variance, smallest**2))
    return reached, (weights / weights.sum(), means, scales)


def mixture_with_correction(
    samples: Any, components: int, order: int, *, seed: int = 0, **options: Any
) -> fitting.Fit:
    """A Gaussian mixture times a Fourier density of its distribution function.

    Has 3 K - 1 + 2 N degrees of freedom. The mixture takes care of peaks, the Fourier density
    of what is left.

    Args:
        samples: [n].
        components: K of the mixture, fitted by EM.
        order: N of the correction.
        seed: of EM.
        options: passed on to `fitting.fit`.

    Source: derived from https://kexue.fm/archives/10007, equation 15, with a mixture as the base.
    """
    base = mixture_by_em(samples, components, seed=seed)
    return fitting.fit(samples, order, "real", base=base, loc=0.0, scale=1.0, **options)
