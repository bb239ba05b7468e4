"""EDM's own sampler, in its coordinates: y = x + s n, from a large s to 0.

Source: Karras et al. (arXiv 2206.00364), algorithms 1 and 2.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion import levels as checks

Denoiser = Callable[..., Array]


class Churn(NamedTuple):
    """EDM's stochasticity: noise that is added before each step, and removed by it.

    Attributes:
        amount: S_churn; 0 is the deterministic flow.
        low, high: S_min and S_max, noise levels between which it is added.
        noise: S_noise, its standard deviation.
    """

    amount: float = 0.0
    low: float = 0.0
    high: float = float("inf")
    noise: float = 1.0


def sample_edm(
    denoiser: Denoiser,
    z: Float[Array, "B ..."],
    sigmas: Any,
    method: str = "heun",
    key: Array | None = None,
    condition: Any = None,
    *,
    churn: Churn | None = None,
    trajectory: bool = False,
    params: Any = None,
) -> Any:
    """Run EDM's sampler from y at the first noise level to the last.

    Args:
        denoiser: (y, sigma [B][, condition]) -> x, or with params first if they are given; see
            `samplers.sample`.
        z: y at the first level, normally noise of standard deviation sigmas[0].
        sigmas: n + 1 decreasing levels; the last may be 0, as in `schedules.edm_sigmas(n)`.
        method: "euler" or "heun"; the step to 0 is always Euler's.
        key: needed for churn.
        condition: passed on to the denoiser, if given.
        churn: noise added before steps (algorithm 2); none by default.
        trajectory: also return y at all levels, [n + 1, B, ...].
        params: the denoiser's, if they are its first argument.

    Returns:
        y at the last level, x if that is 0, or (y, trajectory).

    Raises:
        ValueError: unknown methods, levels that do not fall, churn without a key, a prediction that
            is not finite.

    Source: Karras et al. (arXiv 2206.00364), algorithm 1, and 2 with churn.
    """
    if method not in ("euler", "heun"):
        raise ValueError(f"method: expected 'euler' or 'heun', got {method!r}")
    checks.rising(sigmas, "sigmas", -1.0)
    churn = Churn() if churn is None else churn
    if not (isinstance(churn, Churn) and min(churn.amount, churn.low, churn.noise) >= 0):
        raise ValueError(f"churn: expected a Churn of numbers that are not negative, got {churn}")
    if not churn.low <= churn.high:
        raise ValueError(f"churn: expected low <= high, got {churn.low} and {churn.high}")
    if churn.amount > 0 and key is None:
        raise ValueError("key: expected a random key for churn, got None")
    levels = jnp.asarray(sigmas, jnp.promote_types(z.dtype, jnp.float32))
    key = jax.random.key(0) if key is None else key
    (y, bad), path = _run(denoiser, z, levels, key, condition, params, method, churn, trajectory)
    y = checks.report(y, bad, "sigma", z)
    return (y, jnp.concatenate([z[None], path])) if trajectory else y


@functools.partial(jax.jit, static_argnames=("denoiser", "method", "churn", "trajectory"))
def _run(
    denoiser: Denoiser,
    y: Array,
    levels: Array,
    key: Array,
    condition: Any,
    params: Any,
    method: str,
    churn: Churn,
    trajectory: bool,
) -> tuple[tuple[Array, Array], Array | None]:
    if params is not None:
        denoiser = functools.partial(denoiser, params)
    count = len(levels) - 1
    most = min(churn.amount / count, 2**0.5 - 1)

    def slope(y: Array, level: Array) -> tuple[Array, Array]:
        wide = jnp.broadcast_to(level, y.shape[:1])
        x = checks.call(denoiser, y, wide, condition)
        return (y - x) / level, jnp.all(jnp.isfinite(x))

    def body(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[Any, Array | None]:
        (y, bad), (index, level, after) = carry, inputs
        also = jnp.array(True)
        here = y
        if churn.amount > 0:
            inside = (level >= churn.low) & (level <= churn.high)
            more = jnp.where(inside, most, 0.0)
            fresh = jax.random.normal(jax.random.fold_in(key, index), y.shape, y.dtype)
            added = level * jnp.sqrt(more * (2.0 + more)) * churn.noise  # of squares, no difference
            here, level = y + added * fresh, level * (1.0 + more)
        first, good = slope(here, level)
        new = here + (after - level) * first
        if method == "heun":

            def corrected(new: Array) -> tuple[Array, Array]:
                second, also = slope(new, jnp.where(after > 0, after, 1.0))
                return (here + (after - level) * 0.5 * (first + second)).astype(y.dtype), also

            def kept(new: Array) -> tuple[Array, Array]:
                return new, jnp.array(True)

            new, also = jax.lax.cond(after > 0, corrected, kept, new.astype(y.dtype))
        new = new.astype(y.dtype)
        found = jnp.where(good, jnp.where(also, jnp.nan, after), level)
        bad = jnp.where(jnp.isnan(bad), found, bad)
        return (new, bad), new if trajectory else None

    rises = jnp.where(jnp.all(jnp.diff(levels) < 0), jnp.nan, levels[0])  # where it is not known
    start = (y, rises)
    return jax.lax.scan(body, start, (jnp.arange(count), levels[:-1], levels[1:]))
