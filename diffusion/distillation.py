"""Score identity distillation: a generator of one step from a denoiser of many, without data.

Notation
    x, G         generated array and generator: x = G(s0 z, s0), z noise, s0 = sigma_init
    y, s, n      y = x + s n, a noise level of EDM's and noise
    f, p         teacher and fake denoisers (y, sigma [B]) -> x; p is trained on generated arrays
    w            1 / mean |x - f(y)| over an example, detached
    L1, L2       |f - p|^2 and <f - p, f - x>, summed over an example, both at y

p is the denoiser of the generated law when it is optimal, and then L1 measures how far that law is
from the teacher's. Three identities make another loss of it:

    1  E[x | y] = y + s^2 grad log p(y)                     the denoiser is the score (Tweedie)
    2  grad log p(y) = E[grad log p(y | x) | y]             a score is a mean of conditional ones
    3  E <g(y), p(y)> = E <g(y), x> for every g             of both: p may be exchanged for x

With 3, L1 = E<f - p, f> - E<f - p, p> becomes L2, in which p stands once. The loss is

    L2 - alpha L1 = <f - p, (f - x) - alpha (f - p)>

whose gradient goes through x and through the *inputs* of f and p; their weights stand still, which
is what L1 suffers from. At alpha = 1/2 the gradient is half that of L1 with p optimal for each
generator: of the Fisher divergence. Larger alpha works against collapse.

Two normal laws show what happens: the teacher's of deviation tau, the generator's of theta. With

    kappa = tau^2 / (tau^2 + s^2) - theta^2 / (theta^2 + s^2)

the gradient in theta is 2 theta kappa (a - 1 - alpha kappa), a = tau^2 / (tau^2 + s^2), that of L1
alone 2 theta kappa^2: never negative, so that the law shrinks whatever it is. With alpha <= 1 theta
goes to tau from everywhere, above it only from below sqrt((s^2 + alpha tau^2) / (alpha - 1)).

Source: Zhou et al. (arXiv 2404.04057), section 3 and algorithm 1; https://kexue.fm/archives/10085,
whose lambda is alpha; https://kexue.fm/archives/10567 for alpha = 1/2. The normal laws are derived
from these.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import edm, process
from diffusion.levels import call, concrete

Denoiser = Callable[..., Array]
SIGMA_INIT = 2.5
SAFE = (0.0, 1.2)  # alpha of the paper's results; warned of outside


def generator_loss(
    x: Array,
    teacher: Denoiser,
    fake: Denoiser,
    sigma: Array,
    noise: Array,
    alpha: Any = 1.2,
    condition: Any = None,
    *,
    identity: Any = 1.0,
) -> Float[Array, "B"]:
    """W (L2 - alpha L1) at y = x + sigma noise, summed over each example.

    Args:
        x: generated, [B, ...]; gradients flow into it.
        teacher, fake: (y, sigma [B][, condition]) -> x. Differentiate this loss by the generator's
            weights alone; these denoisers are differentiated by their inputs.
        sigma: noise levels of EDM's, [B], `generator_sigma` of uniform numbers.
        noise: standard normal, of the shape of x.
        alpha: 0 for L2, 1/2 for the exact direction, 1.2 as the paper uses; see `threshold`.
        identity: what L2 is multiplied with; 0 and an alpha of -1 are `naive_loss`.

    Raises:
        ValueError: shapes that differ, sigma that is known and not positive.

    Warns:
        UserWarning: alpha outside of [0, 1.2], with what it does to normal laws.
    """
    _check(x, sigma, noise)
    known = concrete(identity)
    if known is None or known.all():
        _warn(alpha)
    f, p = _answers(x, teacher, fake, sigma, noise, condition)
    return _weight(x, f) * _sum((f - p) * (identity * (f - x) - alpha * (f - p)))


def naive_loss(
    x: Array,
    teacher: Denoiser,
    fake: Denoiser,
    sigma: Array,
    noise: Array,
    condition: Any = None,
) -> Float[Array, "B"]:
    """W L1, which collapses: the post's first form, for comparison. As `generator_loss`."""
    return generator_loss(x, teacher, fake, sigma, noise, -1.0, condition, identity=0.0)


def fake_score_loss(
    x: Array,
    fake: Denoiser,
    sigma: Array,
    noise: Array,
    sigma_data: float = 0.5,
    condition: Any = None,
) -> Float[Array, "B"]:
    """EDM's weighted error of the fake denoiser on generated arrays, summed over each example.

    No gradient flows into x.

    Args:
        x, noise: [B, ...].
        sigma: noise levels, [B], log-normal as EDM's (`schedules.edm`).
        sigma_data: of the weight, (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.

    Raises:
        ValueError: as `generator_loss`.
    """
    _check(x, sigma, noise)
    x = jax.lax.stop_gradient(x)
    error = jnp.square(call(fake, _noisy(x, sigma, noise), sigma, condition) - x)
    return edm.scalings(sigma, sigma_data).weight * _sum(error)


def fisher_divergence(
    x: Array,
    teacher: Denoiser,
    fake: Denoiser,
    sigma: Array,
    noise: Array,
    condition: Any = None,
) -> Float[Array, "B"]:
    """L1 / sigma^4, squared distances of the scores at y; their mean is the Fisher divergence."""
    _check(x, sigma, noise)
    f, p = _answers(x, teacher, fake, sigma, noise, condition)
    return _sum(jnp.square(f - p)) / sigma**4


def post_loss(
    x: Array,
    teacher: Denoiser,
    fake: Denoiser,
    logsnr: Array,
    eps: Array,
    lam: Any = 1.0,
    condition: Any = None,
) -> Float[Array, "B"]:
    """The post's form for any schedule: <e_f - e_p, e_f - eps> - lam |e_f - e_p|^2.

    Args:
        teacher, fake: (z, logsnr [B][, condition]) -> eps, of z = alpha x + sigma eps.

    Raises:
        ValueError: shapes that differ.
    """
    z = process.diffuse(x, eps, logsnr)
    f, p = (call(denoiser, z, logsnr, condition) for denoiser in (teacher, fake))
    return _sum((f - p) * ((f - eps) - lam * (f - p)))


def generate(
    generator: Denoiser, z: Float[Array, "B ..."], sigma: float = SIGMA_INIT, condition: Any = None
) -> Float[Array, "B ..."]:
    """One step: G(sigma z, sigma), z standard normal.

    Raises:
        ValueError: sigma that is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive number, got {sigma}")
    return call(generator, sigma * z, jnp.full(len(z), sigma, z.dtype), condition)


def generate_steps(
    generator: Denoiser,
    z: Float[Array, "B ..."],
    sigmas: Any,
    seed: Array,
    last: Any = None,
    condition: Any = None,
) -> Float[Array, "B ..."]:
    """A few steps: from x of the step before, x + sigma n at the next level, and G again.

    Args:
        sigmas: levels that fall, the first that of z.
        last: number of the step whose x is returned, one for all or one an example [B]; the last
            by default. In training draw it evenly, so that every step learns to end; gradients
            flow into that step alone.

    Raises:
        ValueError: levels that are known and do not fall, or are not positive.
    """
    levels = jnp.asarray(sigmas, z.dtype)
    known = concrete(levels)
    if levels.ndim != 1 or not len(levels):
        raise ValueError(f"sigmas: expected [steps], got {levels.shape}")
    if known is not None and not (known[-1] > 0 and np.all(np.diff(known) < 0)):
        raise ValueError(f"sigmas: expected positive levels that fall, got {known}")
    x, kept = jnp.zeros_like(z), jnp.zeros_like(z)
    chosen = jnp.broadcast_to(len(levels) - 1 if last is None else jnp.asarray(last), z.shape[:1])
    for step in range(len(levels)):
        noise = z if step == 0 else jax.random.normal(jax.random.fold_in(seed, step), z.shape)
        y = jax.lax.stop_gradient(x) + levels[step] * noise.astype(z.dtype)
        x = call(generator, y, jnp.broadcast_to(levels[step], z.shape[:1]), condition)
        here = (chosen == step).reshape(-1, *(1,) * (z.ndim - 1))
        kept = jnp.where(here, x, kept)
    return kept


def generator_sigma(
    u: Any,
    t_max: float = 0.8,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Array:
    """Noise levels for the generator's loss of uniform numbers u in [0, 1], of the shape of u.

    (sigma_max^(1/rho) + (1 - t) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho with t = t_max u: even
    in EDM's steps, from sigma_min up to 24.4 for the paper's t_max.

    Raises:
        ValueError: levels that do not rise, t_max outside (0, 1].
    """
    if not (0 < sigma_min < sigma_max and rho > 0 and 0 < t_max <= 1):
        raise ValueError(
            "t_max, sigma_min, sigma_max, rho: expected 0 < t_max <= 1, 0 < sigma_min < sigma_max, "
            f"rho > 0, got {t_max}, {sigma_min}, {sigma_max}, {rho}"
        )
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (first + (1.0 - t_max * jnp.asarray(u, float)) * (last - first)) ** rho


def threshold(alpha: float, sigma: float = 0.0, tau: float = 1.0) -> float:
    """The deviation above which a normal generator runs away from a normal teacher's tau.

    sqrt((sigma^2 + alpha tau^2) / (alpha - 1)) at one noise level; infinite for alpha <= 1.
    """
    if alpha <= 1:
        return math.inf
    return math.sqrt((sigma**2 + alpha * tau**2) / (alpha - 1))


def diagnose(
    deviation: float, reference: float, alpha: float = 1.0, least: float = 0.25, most: float = 3.0
) -> str | None:
    """What is wrong with a generator, or None: a guard for training loops, on the host.

    Args:
        deviation: root of the mean variance of an element over generated arrays.
        reference: that of the teacher's data.
        alpha: of the loss; its `threshold` counts where it is below `most`.
        least, most: shares of the reference below and above which a law is lost. A generator begins
            narrow, as the teacher's means given pure noise; wait some hundred steps.

    Raises:
        ValueError: a reference that is not positive.
    """
    if not reference > 0:
        raise ValueError(f"reference: expected a positive deviation, got {reference}")
    share, limit = deviation / reference, min(threshold(alpha), most)
    if not math.isfinite(share):
        return "diverged: generated arrays are not finite; lower the learning rates"
    if share > limit:
        reason = f"alpha = {alpha:g} drives normal laws away that are wider than {limit:.3g} times"
        if limit >= most:
            reason = f"no data are wider than {most:g} times"
        return (
            f"diverged: generated arrays are {share:.3g} times as wide as the teacher's, and "
            f"{reason} the teacher's; lower alpha to 1 or the learning rates"
        )
    if share < least:
        return (
            f"collapsed: generated arrays are {share:.3g} times as wide as the teacher's; the naive"
            " loss |f - p|^2 makes every law narrower, use the identity's with alpha near 1"
        )
    return None


def gaussian_gradient(theta: Any, tau: Any, sigma: Any, alpha: Any) -> Array:
    """Derivative of E[L2 - alpha L1] by the generator's deviation theta, an element, with p optimal
    and standing still, for normal laws of deviations theta and tau around one mean.
    """
    theta, tau, sigma = (jnp.asarray(value, float) for value in (theta, tau, sigma))
    gain = tau**2 / (tau**2 + sigma**2)
    kappa = gain - theta**2 / (theta**2 + sigma**2)
    return 2.0 * theta * kappa * (gain - 1.0 - alpha * kappa)


def _answers(
    x: Array, teacher: Denoiser, fake: Denoiser, sigma: Array, noise: Array, condition: Any
) -> tuple[Array, Array]:
    y = _noisy(x, sigma, noise)
    return call(teacher, y, sigma, condition), call(fake, y, sigma, condition)


def _noisy(x: Array, sigma: Array, noise: Array) -> Array:
    return x + sigma.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype) * noise


def _weight(x: Array, f: Array) -> Array:
    mean = jnp.mean(jnp.abs(x - f).reshape(len(x), -1), axis=1)
    return jax.lax.stop_gradient(1.0 / jnp.maximum(mean, 1e-5))


def _sum(each: Array) -> Array:
    return jnp.sum(each.reshape(len(each), -1), axis=1)


def _check(x: Array, sigma: Array, noise: Array) -> None:
    process.floating("x", x)
    if noise.shape != x.shape or sigma.shape != x.shape[:1]:
        raise ValueError(
            f"sigma, noise: expected {x.shape[:1]} and the shape {x.shape} of x, got "
            f"{sigma.shape}, {noise.shape}"
        )
    known = concrete(sigma)
    if known is not None and not np.all(known > 0):
        raise ValueError(f"sigma: expected positive levels, got {known.min(initial=np.inf):g}")


def _warn(alpha: Any) -> None:
    known = concrete(alpha)
    if known is None or np.all((known >= SAFE[0]) & (known <= SAFE[1])):
        return
    least, most = float(known.min()), float(known.max())
    reason = (
        f"a normal generator runs away where it is wider than {threshold(most):.3g} times a normal "
        "teacher"
        if most > SAFE[1]
        else "below 0 the loss holds L1, which shrinks every law"
    )
    warnings.warn(
        f"alpha: expected a number from {SAFE[0]:g} to {SAFE[1]:g}, got "
        f"{most if most > SAFE[1] else least:g}; {reason}",
        stacklevel=3,
    )
