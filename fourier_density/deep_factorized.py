"""The deep factorized model: a density as the derivative of a monotone network.

A baseline: a pytree of parameters to be trained by gradient descent.

Source: Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale
hyperprior" (arXiv 1802.01436), appendix 6.1.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from fourier_density import pytrees


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
