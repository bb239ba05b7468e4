"""Samplers: n + 1 noise levels, n updates in one scan, the last of which returns the estimate of x.

Notation
    z, lambda   diffused variable and log-SNR; x_hat, eps_hat what a denoiser predicts from them
    ', n        the next level; number of updates

    ancestral   z' from the posterior of z' given z and x_hat; its variance between both bounds
    ddim        z' = alpha' x_hat + sigma' eps_hat
    euler       a step of Euler along the flow of y = z / alpha in s = exp(-lambda / 2): as ddim
    heun        a step of Heun along it, two calls of the denoiser
    dpmpp_2m    DPM-Solver++ of second order with one call, from this estimate and the last

Denoisers are (z [B, ...], logsnr [B], condition) -> prediction, or without a condition if there is
none. A prediction that is not finite is refused with the log-SNR where it happened; where values
are traced it makes the sample NaN.

Source: Ho et al. (arXiv 2006.11239); Song et al. (2010.02502), DDIM; Karras et al. (2206.00364),
algorithms 1 and 2; Lu et al. (2211.01095), algorithm 2; Hoogeboom et al. (2301.11093) for the
variance between bounds.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import levels, process
from diffusion.edm_samplers import Churn, sample_edm

__all__ = ["Churn", "Method", "estimate", "move", "sample", "sample_edm"]

Method = Literal["ancestral", "ddim", "euler", "heun", "dpmpp_2m"]
Denoiser = Callable[..., Array]


class Options(NamedTuple):
    """What does not change during sampling; compared to find compiled programs again.

    Attributes:
        method, prediction, sigma_data: as in `sample`.
        variance: of ancestral: 0 its lower bound, 1 its upper, between them geometric.
        clip: bounds of x_hat, or None.
        trajectory: whether all z are returned.
    """

    method: str
    prediction: str
    variance: float
    clip: tuple[float, float] | None
    trajectory: bool
    sigma_data: float


def sample(
    denoiser: Denoiser,
    z: Float[Array, "B ..."],
    logsnrs: Any,
    method: str = "ddim",
    prediction: str = "v",
    key: Array | None = None,
    condition: Any = None,
    *,
    variance: float = 0.3,
    clip: tuple[float, float] | None = None,
    trajectory: bool = False,
    sigma_data: float = 0.5,
    params: Any = None,
) -> Any:
    """Run a sampler from z to the data.

    Args:
        denoiser: (z, logsnr [B][, condition]) -> prediction, or (params, z, ...) if `params` are
            given. Compiled programs are cached by the function object, with the arrays it closes
            over as constants, until `jax.clear_caches()`: later changes of them have no effect, so
            pass weights as `params`.
        z: the noisy array at the first log-SNR, normally standard normal noise.
        logsnrs: n + 1 increasing values, as `schedule(jnp.linspace(1, 0, n + 1))` gives them. The
            denoiser is called at the first n of them.
        method: "ancestral" (needs a key), "ddim", "euler", "heun" or "dpmpp_2m".
        prediction: what the denoiser returns: "x", "eps", "v", "score", or EDM's "D" (x) and "F"
            (of `sigma_data`).
        condition: passed on to the denoiser.
        variance: of "ancestral": 0 its lower bound (posterior), 1 its upper, geometric in between.
        clip: bounds of x_hat, to which it is clipped at every step; None for no clipping.
        trajectory: also return z at all levels, [n + 1, B, ...]; the last is x.
        params: first argument of the denoiser, for other parameters in the same program.

    Returns:
        x [B, ...], or (x, trajectory).

    Raises:
        ValueError: unknown names, levels that do not rise, no key, no denoiser or noise, a
            prediction that is not finite.

    Source: Ho et al. (arXiv 2006.11239) and Kingma et al. (2107.00630), equation 33, for ancestral,
    between the variances of Ho & Salimans (2207.12598), section 2; Song et al. (2010.02502) for
    ddim; Karras et al. (2206.00364), algorithm 1, for euler and heun; Lu et al. (2211.01095),
    algorithm 2, for dpmpp_2m.
    """
    if not callable(denoiser):
        raise ValueError(f"denoiser: expected a function, got {type(denoiser).__name__}")
    z = jnp.asarray(z)
    _check(z, method, prediction, logsnrs, key, variance, clip)
    values = jnp.asarray(logsnrs, jnp.promote_types(z.dtype, jnp.float32))
    bounds = None if clip is None else (float(clip[0]), float(clip[1]))
    options = Options(method, prediction, float(variance), bounds, trajectory, sigma_data)
    key = jax.random.key(0) if key is None else key
    (x, bad), path = _run(denoiser, z, values, key, condition, params, options)
    x = levels.report(x, bad, "log-SNR", z)
    return (x, jnp.concatenate([z[None], path])) if trajectory else x


def _check(
    z: Any,
    method: str,
    prediction: str,
    logsnrs: Any,
    key: Any,
    variance: float,
    clip: Any,
) -> None:
    if np.ndim(z) < 1 or not np.size(z) or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"z: expected noise [B, ...] of floats, got {z.dtype} {np.shape(z)}")
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {get_args(Method)}, got {method!r}")
    process.check("prediction", prediction)
    levels.rising(logsnrs, "logsnrs")
    if key is not None and not isinstance(key, jax.Array | np.ndarray):
        raise ValueError(f"key: expected a random key such as jax.random.key(0), got {key!r}")
    if method == "ancestral" and key is None:
        raise ValueError("key: expected a random key for ancestral sampling, got None")
    if not 0 <= variance <= 1:
        raise ValueError(f"variance: expected a number in [0, 1], got {variance}")
    if clip is not None and not (np.shape(clip) == (2,) and clip[0] < clip[1]):
        raise ValueError(f"clip: expected a lower and a higher bound, got {clip}")


class Step(NamedTuple):
    """What the updates need of one level and the next."""

    logsnr: Array
    after: Array
    last: Array


def estimate(
    denoiser: Denoiser, z: Array, logsnr: Array, condition: Any, options: Options
) -> tuple[Array, Array, Array]:
    """x_hat and eps_hat, clipped together, and whether the prediction was finite."""
    wide = jnp.broadcast_to(logsnr, z.shape[:1])
    value = levels.call(denoiser, z, wide, condition)
    good = jnp.all(jnp.isfinite(value))
    x, eps = (
        process.convert(value, z, logsnr, options.prediction, kind, options.sigma_data)
        for kind in ("x", "eps")
    )
    if options.clip is not None:
        x = jnp.clip(x, *options.clip)
        eps = process.convert(x, z, logsnr, "x", "eps")
    return x, eps, good


@functools.partial(jax.jit, static_argnames=("denoiser", "options"))
def _run(
    denoiser: Denoiser,
    z: Array,
    values: Array,
    key: Array,
    condition: Any,
    params: Any,
    options: Options,
) -> tuple[tuple[Array, Array], Array | None]:
    if params is not None:
        denoiser = functools.partial(denoiser, params)

    def body(carry: tuple[Array, ...], inputs: tuple[Any, ...]) -> tuple[Any, Array | None]:
        z, before, bad = carry
        index, step, previous = inputs
        x, eps, good = estimate(denoiser, z, step.logsnr, condition, options)
        also = jnp.array(True)
        if options.method == "ancestral":
            new = _ancestral(z, x, step, jax.random.fold_in(key, index), options.variance)
        elif options.method == "heun":
            new, also = _heun(denoiser, z, x, eps, step, condition, options)
        elif options.method == "dpmpp_2m":
            new = _second_order(z, x, before, step, previous)
        else:
            new = move(x, eps, step.after)
        new = jnp.where(step.last, x, new).astype(z.dtype)
        found = jnp.where(good, jnp.where(also, jnp.nan, step.after), step.logsnr)
        bad = jnp.where(jnp.isnan(bad), found, bad)
        return (new, x.astype(z.dtype), bad), new if options.trajectory else None

    count = len(values) - 1
    index = jnp.arange(count)
    steps = Step(values[:-1], values[1:], index == count - 1)
    previous = jnp.concatenate([values[:1], values[:-2]])
    falls = jnp.where(jnp.all(jnp.diff(values) > 0), jnp.nan, values[0])  # where it is not known
    start = (z, jnp.zeros_like(z), falls)
    (x, _, bad), path = jax.lax.scan(body, start, (index, steps, previous))
    return (x, bad), path


def move(x: Array, eps: Array, logsnr: Array) -> Array:
    """Noisy z of the same x and eps at another log-SNR, alpha' x + sigma' eps: DDIM.

    Source: Song et al. (arXiv 2010.02502), without noise.
    """
    alpha, sigma = process.alpha_sigma(logsnr)
    return alpha * x + sigma * eps


def _ancestral(z: Array, x: Array, step: Step, key: Array, variance: float) -> Array:
    """A draw of z' given z and x, with c = 1 - exp(lambda - lambda')."""
    (alpha, sigma), (alpha_after, sigma_after) = map(process.alpha_sigma, step[:2])
    difference = step.logsnr - step.after
    rest = -jnp.expm1(difference)
    mean = alpha_after * (z * jnp.exp(difference) / alpha + rest * x)
    lower, upper = (jnp.log(s) + 0.5 * jnp.log(rest) for s in (sigma_after, sigma))
    deviation = jnp.exp((1.0 - variance) * lower + variance * upper)
    return mean + deviation * jax.random.normal(key, z.shape, z.dtype)


def _heun(
    denoiser: Denoiser,
    z: Array,
    x: Array,
    eps: Array,
    step: Step,
    condition: Any,
    options: Options,
) -> tuple[Array, Array]:
    """The mean of the slopes dy/ds = eps_hat at both ends; the last step needs no second call."""
    alpha, _ = process.alpha_sigma(step.logsnr)
    alpha_after, _ = process.alpha_sigma(step.after)
    level, level_after = (jnp.exp(-0.5 * logsnr) for logsnr in step[:2])

    def corrected(_: Any) -> tuple[Array, Array]:
        there = move(x, eps, step.after).astype(z.dtype)
        _, second, good = estimate(denoiser, there, step.after, condition, options)
        y = z / alpha + (level_after - level) * 0.5 * (eps + second)
        return (alpha_after * y).astype(z.dtype), good

    return jax.lax.cond(step.last, lambda _: (z, jnp.array(True)), corrected, None)


def _second_order(z: Array, x: Array, before: Array, step: Step, previous: Array) -> Array:
    """Extrapolate x_hat to the middle of the step in lambda; the first step has no other one."""
    alpha_after, sigma_after = process.alpha_sigma(step.after)
    _, sigma = process.alpha_sigma(step.logsnr)
    size, earlier = 0.5 * (step.after - step.logsnr), 0.5 * (step.logsnr - previous)
    first = earlier <= 0
    ratio = jnp.where(first, 0.0, size / jnp.where(first, 1.0, 2.0 * earlier))
    middle = x + ratio * (x - before)
    return sigma_after / sigma * z - alpha_after * jnp.expm1(-size) * middle
