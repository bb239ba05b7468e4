"""Score identity distillation (SiD): a one-step generator from a multi-step denoiser, without data.

Notation
    x, G         generated array and generator: x = G(s0 z, s0), z noise, s0 = sigma_init
    y, s, n      y = x + s n, a noise level of EDM's and noise
    f, p         teacher and fake denoisers (y, sigma [B]) -> x; p is trained on generated arrays
    w            1 / mean |x - f(y)| over an example, detached
    L1, L2       |f - p|^2 and <f - p, f - x>, summed over an example, both at y

An optimal p is the denoiser of the generated distribution; L1 then measures how far this is from
the teacher's. Three identities turn it into another loss:

    1  E[x | y] = y + s^2 grad log p(y)                     the denoiser is the score (Tweedie)
    2  grad log p(y) = E[grad log p(y | x) | y]             a score is a mean of conditional ones
    3  E <g(y), p(y)> = E <g(y), x> for every g             of both, for p optimal

By 3, E<f - p, p> = E<f - p, x>, and L1 = E<f - p, f> - E<f - p, p> becomes L2, which contains p
once. The loss is

    L2 - alpha L1 = <f - p, (f - x) - alpha (f - p)>

whose gradient goes through x and through the *inputs* of f and p; their weights are held fixed,
from which L1 alone suffers. At alpha = 1/2 the gradient is half that of L1 with p optimal for each
generator, that is of the Fisher divergence. Larger alpha counteracts collapse.

`distilled_laws` has the effect on normal distributions, the noise levels, and a check of training.

Source: Zhou et al. (arXiv 2404.04057), section 3 and algorithm 1; https://kexue.fm/archives/10085,
whose lambda is alpha; https://kexue.fm/archives/10567 for alpha = 1/2.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion import edm, process
from diffusion.distilled_laws import diagnose as diagnose
from diffusion.distilled_laws import gaussian_gradient as gaussian_gradient
from diffusion.distilled_laws import generator_sigma as generator_sigma
from diffusion.distilled_laws import threshold as threshold
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
    """The generator's loss w (L2 - alpha L1) at y = x + sigma noise, summed over each example.

    Args:
        x: generated, [B, ...]; gradients flow into it.
        teacher, fake: (y, sigma [B][, condition]) -> x. Differentiate this loss by the generator's
            weights alone; these denoisers are differentiated by their inputs.
        sigma: noise levels of EDM's, [B], `generator_sigma` of uniform numbers.
        noise: standard normal, of the shape of x.
        alpha: 0 for L2, 1/2 for the exact gradient direction, 1.2 as in the paper; see `threshold`.
        identity: factor of L2; 0 together with alpha = -1 is `naive_loss`.

    Raises:
        ValueError: no examples, shapes that differ, sigma that is known and not positive and
            finite, alpha that is no finite number.

    Warns:
        UserWarning: alpha outside of [0, 1.2], with what it does to normal laws.

    Source: Zhou et al. (arXiv 2404.04057), algorithm 1; https://kexue.fm/archives/10085, equations
    4 and 9, in x instead of eps: L2 - lambda L1 with lambda = alpha; the weight is the paper's.
    """
    _check(x, sigma, noise)
    _check_number("alpha", alpha)
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
    """The loss w L1, the post's first form, which collapses; arguments as of `generator_loss`.

    Source: https://kexue.fm/archives/10085, equation 4, in x instead of eps and weighted; Zhou et
    al. (arXiv 2404.04057), section 3.
    """
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

    weight |p(x + sigma noise) - x|^2. No gradient flows into x.

    Args:
        x, noise: [B, ...].
        sigma: noise levels, [B], log-normal as EDM's (`schedules.edm`).
        sigma_data: of the weight, (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.

    Raises:
        ValueError: as `generator_loss`.

    Source: https://kexue.fm/archives/10085, equation 3, in x instead of eps; Karras et al. (arXiv
    2206.00364), table 1, for the weight; Zhou et al. (2404.04057), algorithm 1.
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
    """L1 / sigma^4, squared distances of the scores at y; their mean is the Fisher divergence.

    Source: https://kexue.fm/archives/10567, equation 15, at one noise level each.
    """
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

    Source: https://kexue.fm/archives/10085, equations 4 and 9: L2 - lambda L1;
    https://kexue.fm/archives/10567, half of equation 14 at lambda = 1/2; at lambda = 1 its
    gradient is half of that in equation 19.
    """
    z = process.diffuse(x, eps, logsnr)
    f, p = (call(denoiser, z, logsnr, condition) for denoiser in (teacher, fake))
    return _sum((f - p) * ((f - eps) - lam * (f - p)))


def generate(
    generator: Denoiser, z: Float[Array, "B ..."], sigma: float = SIGMA_INIT, condition: Any = None
) -> Float[Array, "B ..."]:
    """One step: G(sigma z, sigma), z standard normal.

    Raises:
        ValueError: z of whole numbers, sigma that is known and not positive.

    Source: Zhou et al. (arXiv 2404.04057), algorithm 1.
    """
    process.floating("z", z)
    _check_number("sigma", sigma)
    known = concrete(sigma)
    if known is not None and not known > 0:
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
    """Generate in a few steps: add fresh noise of the next level to the last x, and apply G again.

    Args:
        sigmas: decreasing noise levels [steps]; the first multiplies z, standard normal noise.
        last: index from 0 of the step whose x is returned, a number or one per example [B]; None
            for the last. In training draw it uniformly, so that each step learns to be the final
            one; gradients flow into that step alone.

    Raises:
        ValueError: z of whole numbers; levels that are known and do not fall, or are not positive;
            `last` that is known and no step.

    Source: Zhou et al. (arXiv 2505.12674), who match an even mixture of what all steps make.
    """
    process.floating("z", z)
    levels = jnp.asarray(sigmas, z.dtype)
    known = concrete(levels)
    if levels.ndim != 1 or not len(levels):
        raise ValueError(f"sigmas: expected [steps], got {levels.shape}")
    if known is not None and not (known[-1] > 0 and np.all(np.diff(known) < 0)):
        raise ValueError(f"sigmas: expected positive levels that fall, got {known}")
    x, kept = jnp.zeros_like(z), jnp.zeros_like(z)
    ends = jnp.asarray(len(levels) - 1 if last is None else last)
    known = concrete(ends)
    whole = jnp.issubdtype(ends.dtype, jnp.integer) and ends.shape in ((), z.shape[:1])
    if not whole or (known is not None and np.any((known < 0) | (known >= len(levels)))):
        raise ValueError(
            f"last: expected steps from 0 to {len(levels) - 1}, one or {len(z)}, got {last}"
        )
    chosen = jnp.broadcast_to(ends, z.shape[:1])
    for step in range(len(levels)):
        noise = z if step == 0 else jax.random.normal(jax.random.fold_in(seed, step), z.shape)
        y = jax.lax.stop_gradient(x) + levels[step] * noise.astype(z.dtype)
        x = call(generator, y, jnp.broadcast_to(levels[step], z.shape[:1]), condition)
        here = (chosen == step).reshape(-1, *(1,) * (z.ndim - 1))
        kept = jnp.where(here, x, kept)
    return kept


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
    if not x.size:
        raise ValueError(f"x: expected examples, got {x.shape}")
    if np.shape(sigma) != x.shape[:1] or noise.shape != x.shape:
        raise ValueError(
            f"sigma, noise: expected {x.shape[:1]} and the shape {x.shape} of x, got "
            f"{np.shape(sigma)}, {noise.shape}"
        )
    known = concrete(sigma)
    if known is not None and not np.all((known > 0) & np.isfinite(known)):
        worst = known[~((known > 0) & np.isfinite(known))][0]
        raise ValueError(f"sigma: expected positive, finite levels, got {worst:g}")


def _check_number(name: str, value: Any) -> None:
    try:
        found = jnp.asarray(value, float)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a number, got {value!r}") from None
    known = concrete(found)
    if found.ndim or (known is not None and not np.isfinite(known)):
        raise ValueError(f"{name}: expected a finite number, got {value}")


def _warn(alpha: Any) -> None:
    known = concrete(alpha)
    if known is None or np.all((known >= SAFE[0]) & (known <= SAFE[1])):
        return
    least, most = float(known.min()), float(known.max())
    reason = (
        f"at the finest noise a normal generator runs away where it is wider than "
        f"{threshold(most):.3g} times a normal teacher"
        if most > SAFE[1]
        else "below 0 the loss holds L1, which shrinks every law"
    )
    warnings.warn(
        f"alpha: expected a number from {SAFE[0]:g} to {SAFE[1]:g}, got "
        f"{most if most > SAFE[1] else least:g}; {reason}",
        stacklevel=3,
    )
