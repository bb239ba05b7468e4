"""The variational bound on the log-likelihood, in nats, term by term.

Notation
    x, eps, z  data, noise, alpha x + sigma eps
    lambda(t)  the schedule, from lambda_max at the data (t = 0) to lambda_min at the noise (t = 1)

    -log p(x) <= prior + reconstruction + diffusion
    prior           KL of z at t = 1 from the standard normal law
    reconstruction  E -log p(x | z at t = 0): normal of variance exp(-lambda_max), or, for data in
                    bins, its softmax over them
    diffusion       continuous time: (1/2) E -lambda'(t) |eps - eps_hat|^2;
                    T steps: (T/2) E expm1(lambda(s) - lambda(t)) |eps - eps_hat|^2 with t = i / T,
                    s = (i - 1) / T

Source: Kingma et al. (arXiv 2107.00630), equations 11 to 17.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion import levels, process, times
from diffusion.schedule import Schedule, whole

NAMES = ("independent", "low_discrepancy", "antithetic")
SAMPLERS = {name: getattr(times, name) for name in NAMES}


class Bound(NamedTuple):
    """The terms for each example, [B], in nats.

    Source: Kingma et al. (arXiv 2107.00630), equation 11.
    """

    prior: Any
    reconstruction: Any
    diffusion: Any

    @property
    def total(self) -> Any:
        """An upper bound of -log p(x), [B]."""
        return self.prior + self.reconstruction + self.diffusion


def bound(
    key: Array,
    denoiser: Callable[..., Array],
    x: Float[Array, "B ..."],
    schedule: Schedule,
    prediction: str = "v",
    *,
    steps: int | None = None,
    bins: Float[Array, "K"] | None = None,
    condition: Any = None,
    times_from: str = "low_discrepancy",
    sigma_data: float = 0.5,
) -> Bound:
    """A Monte Carlo estimate of the bound, with one time and one noise per example.

    Args:
        denoiser: (z, logsnr [B][, condition]) -> prediction.
        steps: T of discrete time; None for continuous time.
        bins: the values that elements of x can take, to bound discrete probabilities; None bounds
            a density. Other values in x are refused (NaN where x is traced).
        times_from: "independent", "low_discrepancy" or "antithetic".
        sigma_data: of the prediction "F".

    Raises:
        ValueError: unknown names, steps < 1, a first argument that is no random key.

    Source: Kingma et al. (arXiv 2107.00630), equations 11, 14 (discrete time) and 17 (continuous
    time).
    """
    process.check("prediction", prediction)
    if times_from not in SAMPLERS:
        raise ValueError(f"times_from: expected one of {NAMES}, got {times_from!r}")
    if not isinstance(key, jax.Array):
        raise ValueError(f"key: expected a random key first, got {type(key).__name__}")
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule: expected a noise schedule, got {type(schedule).__name__}")
    x = jnp.asarray(x)
    process.floating("x", x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    time_key, noise_key, data_key = jax.random.split(key, 3)
    t = SAMPLERS[times_from](time_key, len(x)).astype(jnp.result_type(float, x))
    before, count = None, 0 if steps is None else steps
    if steps is not None:
        whole("steps", steps)
        index = jnp.ceil(t * steps).clip(1, steps)
        t, before = index / steps, schedule.logsnr((index - 1) / steps)
    logsnr = schedule.logsnr(t)
    eps = jax.random.normal(noise_key, x.shape, x.dtype)
    z = process.diffuse(x, eps, logsnr)
    value = levels.call(denoiser, z, logsnr, condition)
    eps_hat = process.convert(value, z, logsnr, prediction, "eps", sigma_data)
    squared = jnp.sum(jnp.square(eps - eps_hat).reshape(len(x), -1), axis=-1)
    if before is None:
        factor = -0.5 * schedule.slope(t)
    else:
        factor = 0.5 * count * jnp.expm1(before - logsnr)
    low, high = schedule.ends
    return Bound(prior(x, low), reconstruction(data_key, x, high, bins), factor * squared)


def prior(x: Float[Array, "B ..."], logsnr_min: Any) -> Float[Array, "B"]:
    """KL(N(alpha x, sigma^2) || N(0, 1)) at log-SNR logsnr_min, in nats, one number per example.

    Source: Kingma et al. (arXiv 2107.00630), equation 11, first term; the divergence of normal
    laws.
    """
    low = jnp.asarray(logsnr_min, x.dtype)
    alpha2, log_sigma2 = jax.nn.sigmoid(low), jax.nn.log_sigmoid(-low)
    # sigma^2 - 1 - log sigma^2, without the cancellation of a sigma near 1
    each = 0.5 * (alpha2 * jnp.square(x) - alpha2 - log_sigma2)
    return jnp.sum(each.reshape(len(x), -1), axis=-1)


def reconstruction(
    key: Array, x: Float[Array, "B ..."], logsnr_max: Any, bins: Any = None
) -> Float[Array, "B"]:
    """E -log p(x | z at the data end), in nats, one an example.

    Without bins p is N(z / alpha, exp(-lambda)), whose mean is known; with bins, one draw of z and
    the softmax of its log-density over them.

    Raises:
        ValueError: values of x, where known, that are not among the bins.

    Source: Kingma et al. (arXiv 2107.00630), equations 8 and 11, second term; without bins, derived
    from the density of a normal law.
    """
    high = jnp.asarray(logsnr_max, x.dtype)
    size = math.prod(x.shape[1:])
    if bins is None:
        return jnp.full(len(x), 0.5 * size) * (math.log(2 * math.pi) + 1.0 - high)
    bins = jnp.asarray(bins, x.dtype)
    y = x + jnp.exp(-0.5 * high) * jax.random.normal(key, x.shape, x.dtype)
    scores = -0.5 * jnp.exp(high) * jnp.square(y[..., None] - bins)
    gaps = jnp.abs(x[..., None] - bins)
    own = jnp.argmin(gaps, axis=-1)
    steps = jnp.diff(jnp.sort(bins))
    near = jnp.minimum(1e-3 * jnp.sum(steps), 0.25 * jnp.min(steps, initial=jnp.inf))
    apart = jnp.max(jnp.min(gaps, axis=-1)) > near
    if levels.concrete(apart):
        raise ValueError("bins: expected the values that x takes, got others")
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(scores), own[..., None], axis=-1)
    total = -jnp.sum(log_prob.reshape(len(x), -1), axis=-1)
    return jnp.where(apart, jnp.nan, total)


def bits_per_dim(nats: Any, x: Any) -> Any:
    """Convert nats per example to bits per dimension, for the size of an example of x [B, ...]."""
    return nats / (math.log(2.0) * math.prod(x.shape[1:]))
