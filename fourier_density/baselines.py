"""Other one-dimensional densities, to compare with: each has `log_prob` on the real line.

The deep factorized model and the Gaussian mixture are pytrees to be trained by gradient
descent; `mixture_by_em` fits the mixture on the host; `mixture_with_correction` multiplies it
by a Fourier basis density.

Source: Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale
hyperprior" (arXiv 1802.01436), appendix 6.1, for the deep factorized model.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

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
    """Equal weights, means at quantiles of the samples, scales of their spacing.

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
        seed: of the starts: means at quantiles of the samples and, three times, at random samples.

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
        options: of `fitting.fit`.

    Source: derived from https://kexue.fm/archives/10007, equation 15, with a mixture as the base.
    """
    base = mixture_by_em(samples, components, seed=seed)
    return fitting.fit(samples, order, "real", base=base, loc=0.0, scale=1.0, **options)


@pytrees.dataclass
class DeepFactorized:
    """A density as the derivative of a monotone network: P(X <= x) = sigmoid(f_K(.. f_1(x))).

    f_k(x) = g_k(softplus(H_k) x + b_k) with g_k(x) = x + tanh(a_k) tanh(x), the last without g.

    Attributes:
        matrices, biases, factors: lists of H_k [r_k, r_{k-1}], b_k [r_k], a_k [r_k].

    Source: arXiv 1802.01436, appendix 6.1; https://kexue.fm/archives/10007, equation 4.
    """

    matrices: list[Any]
    biases: list[Any]
    factors: list[Any]

    def logit(self, x: Array) -> Array:
        """Logit P(X <= x): f_K(.. f_1(x)).

        Source: arXiv 1802.01436, appendix 6.1.
        """
        h = jnp.asarray(x)[..., None]
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            h = h @ jax.nn.softplus(matrix).T + bias
            if k < len(self.factors):
                h = h + jnp.tanh(self.factors[k]) * jnp.tanh(h)
        return h[..., 0]

    def cdf(self, x: Array) -> Array:
        """P(X <= x): sigmoid of the logit.

        Source: https://kexue.fm/archives/10007, equation 4; arXiv 1802.01436, appendix 6.1.
        """
        return jax.nn.sigmoid(self.logit(x))

    def log_prob(self, x: Array) -> Array:
        """Log of the derivative: log f' + log sigmoid(f) + log sigmoid(-f).

        Source: derived from arXiv 1802.01436, appendix 6.1.
        """
        x = jnp.asarray(x)
        f, slope = jax.jvp(self.logit, (x,), (jnp.ones_like(x),))
        return jnp.log(slope) + jax.nn.log_sigmoid(f) + jax.nn.log_sigmoid(-f)

    def log_interval_prob(self, lower: Array, upper: Array) -> Array:
        """Log P(lower <= X <= upper), from the tail nearer to the interval.

        With f <= g the logits at the ends: log(sigmoid(g) - sigmoid(f)) is
        log(1 - exp(f - g)) + log sigmoid(g) + log sigmoid(-f).
        """
        f, g = self.logit(lower), self.logit(upper)
        return jnp.log(-jnp.expm1(f - g)) + jax.nn.log_sigmoid(g) + jax.nn.log_sigmoid(-f)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self))


def init_deep_factorized(
    key: Key[Array, ""], widths: tuple[int, ...] = (3, 3, 3), scale: float = 10.0
) -> DeepFactorized:
    """Initial parameters: about a logistic distribution of this scale.

    Args:
        key: of the biases, uniform in [-1/2, 1/2].
        widths: hidden widths r_1..r_{K-1}.
        scale: of the initial density, in units of x.
    """
    sizes = (1, *widths, 1)
    gain = scale ** (1.0 / (len(widths) + 1))
    matrices = [
        jnp.full((out, into), np.log(np.expm1(1.0 / gain / out)))
        for into, out in itertools.pairwise(sizes)
    ]
    biases = [
        jax.random.uniform(jax.random.fold_in(key, k), (size,), minval=-0.5, maxval=0.5)
        for k, size in enumerate(sizes[1:])
    ]
    return DeepFactorized(matrices, biases, [jnp.zeros(size) for size in widths])
