"""Quantiles of distributions on the line that have no formula for them.

Source: derived; implicit differentiation of B(u) = p.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import newton


def solve(base: Any, probability: Array) -> Array:
    """Quantiles of a base: bracketed Newton steps in asinh(u).

    The smaller of the two tails is matched, in logarithms, up to |u| = 1e17 (1e43 in double
    precision), which stand for what is beyond. Derivatives are implicit, of any order.
    """
    return _solve(base, jnp.asarray(probability))


@jax.custom_jvp
def _solve(base: Any, target: Array) -> Array:
    lower = target < 0.5
    goal = jnp.where(lower, jnp.log(target), jnp.log1p(-target))
    sign = jnp.where(lower, 1.0, -1.0)

    def function(s: Array) -> tuple[Array, Array]:
        u = jnp.sinh(s)
        value = jnp.where(lower, base.log_cdf(u), base.log_survival_function(u))
        return sign * (value - goal), jnp.exp(base.log_prob(u) - value) * jnp.cosh(s)

    # sinh(40) = 1e17 has a square in single precision
    reach = jnp.full_like(target, 100.0 if target.dtype == jnp.float64 else 40.0)
    u = jnp.sinh(newton.solve(function, -reach, reach))
    ends = jnp.where(target == 0, -jnp.inf, jnp.where(target == 1, jnp.inf, u))
    return jnp.where((target >= 0) & (target <= 1), ends, jnp.nan)


@_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    base, target = primals
    u = _solve(base, target)
    finite = jnp.isfinite(u)
    inside = jnp.where(finite, u, 0.0)

    def probability(b: Any) -> Array:
        below, above = jnp.exp(b.log_cdf(inside)), -jnp.exp(b.log_survival_function(inside))
        return jnp.where(target < 0.5, below, above)

    _, change = jax.jvp(probability, (base,), (tangents[0],))
    slope = (tangents[1] - change) * jnp.exp(-base.log_prob(inside))
    return u, jnp.where(finite, slope, 0.0)
