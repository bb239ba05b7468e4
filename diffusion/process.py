"""The noisy variable z, and conversions between the kinds of prediction of a denoiser.

Notation
    lambda, z  log-SNR; z = alpha x + sigma eps, alpha^2 = sigmoid(lambda), sigma^2 = 1 - alpha^2
    v          alpha eps - sigma x, the angular velocity
    score      -eps / sigma, the gradient of the log-density of z when eps is predicted
    F          EDM's network: x = c_skip z / alpha + c_out F, for data of deviation sigma_data
    D          EDM's denoiser, which is x

Log-SNR is a number or one per sample, [B], and is broadcast over the axes of z, [B, ...]. Among x,
eps and v each conversion is one formula: x from eps divides by alpha and eps from x by sigma, which
cannot be avoided; everything from v divides by neither. F is converted by way of v,

    v = s (1 - sigma_data^2) / (s^2 + sigma_data^2) z - sigma_data / (alpha root) F

with s = sigma / alpha and root^2 = s^2 + sigma_data^2, in which nothing cancels.

Source: Kingma et al. (arXiv 2107.00630); Salimans & Ho (2202.00512) for v; Karras et al.
(2206.00364) for F; https://kexue.fm/archives/10047 (alpha and sigma are alpha-bar and beta-bar
there).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion import edm

Prediction = Literal["x", "eps", "v", "score", "F", "D"]


def check(name: str, prediction: str) -> None:
    """Refuse unknown predictions.

    Raises:
        ValueError: naming those there are.
    """
    if prediction not in get_args(Prediction):
        raise ValueError(f"{name}: expected one of {get_args(Prediction)}, got {prediction!r}")


def spread(logsnr: Any, like: Array) -> Array:
    """A number or [B], reshaped to broadcast against `like`, in its precision, float32 at least.

    Raises:
        ValueError: another shape.
    """
    dtype = jnp.promote_types(like.dtype, jnp.float32)
    logsnr = jnp.asarray(logsnr, dtype)
    if logsnr.ndim > 1 or (logsnr.ndim == 1 and logsnr.shape[0] not in (1, *like.shape[:1])):
        raise ValueError(f"logsnr: expected a number or {like.shape[:1]}, got {logsnr.shape}")
    return logsnr if logsnr.ndim == 0 else logsnr.reshape(-1, *(1,) * (like.ndim - 1))


def alpha_sigma(logsnr: Any) -> tuple[Array, Array]:
    """Alpha and sigma, the roots of sigmoid(lambda) and sigmoid(-lambda), of the shape of logsnr.

    Neither is computed from the other.

    Source: Kingma et al. (arXiv 2107.00630), equation 4, with lambda = -gamma; alpha-bar and
    beta-bar of https://kexue.fm/archives/10047.
    """
    logsnr = jnp.asarray(logsnr, jnp.result_type(float, logsnr))
    alpha, sigma = (jnp.exp(0.5 * jax.nn.log_sigmoid(sign * logsnr)) for sign in (1.0, -1.0))
    return alpha, sigma


def diffuse(
    x: Float[Array, "B ..."], eps: Float[Array, "B ..."], logsnr: Any
) -> Float[Array, "B ..."]:
    """The noisy variable z = alpha x + sigma eps, at a log-SNR that is a number or [B].

    Raises:
        ValueError: shapes that differ, whole numbers.

    Source: https://kexue.fm/archives/10047, equation 1; Kingma et al. (arXiv 2107.00630), equation
    1.
    """
    if x.shape != eps.shape:
        raise ValueError(f"eps: expected the shape {x.shape} of x, got {eps.shape}")
    floating("x", x)
    alpha, sigma = alpha_sigma(spread(logsnr, x))
    return (alpha * x + sigma * eps).astype(x.dtype)


def floating(name: str, x: Array) -> None:
    """Refuse whole numbers, such as images that nobody has scaled yet.

    Raises:
        ValueError: naming the dtype.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating point, got {x.dtype}; scale it first")


def convert(
    value: Float[Array, "B ..."],
    z: Float[Array, "B ..."],
    logsnr: Any,
    source: str,
    target: str,
    sigma_data: float = 0.5,
) -> Float[Array, "B ..."]:
    """Convert a prediction for z from the kind `source` to the kind `target`.

    Args:
        value: a prediction of the kind `source`, of the shape of z.
        source, target: "x", "eps", "v", "score", "F" or "D".
        sigma_data: standard deviation of the data, for "F".

    Raises:
        ValueError: unknown kinds, shapes that differ.

    Source: Kingma et al. (arXiv 2107.00630), equations 10 and 30, for eps and the score; Salimans &
    Ho (2202.00512) for v; Karras et al. (2206.00364), equation 7, for F.
    """
    check("source", source)
    check("target", target)
    value, z = jnp.asarray(value), jnp.asarray(z)
    if value.shape != z.shape:
        raise ValueError(f"value: expected the shape {z.shape} of z, got {value.shape}")
    floating("z", z)
    source, target = ("x" if kind == "D" else kind for kind in (source, target))
    if source == target:
        return value
    place = spread(logsnr, z)
    alpha, sigma = alpha_sigma(place)
    if source == "score":
        value, source = -sigma * value, "eps"
    elif source == "F":
        of_z, of_f = _f_in_v(place, alpha, sigma_data)
        value, source = of_z * z - of_f * value, "v"
    middle = {"score": "eps", "F": "v"}.get(target, target)
    value = _between(value, z, alpha, sigma, source, middle)
    if target == "score":
        value = -value / sigma
    elif target == "F":
        of_z, of_f = _f_in_v(place, alpha, sigma_data)
        value = (of_z * z - value) / of_f
    return value.astype(z.dtype)


def _f_in_v(logsnr: Array, alpha: Array, sigma_data: float) -> tuple[Array, Array]:
    """Both factors of v = first * z - second * F."""
    level = jnp.exp(-0.5 * logsnr)
    root = 1.0 / edm.scalings(level, sigma_data).inside
    return level / root * ((1.0 - sigma_data**2) / root), sigma_data / (alpha * root)


def _between(value: Array, z: Array, alpha: Array, sigma: Array, source: str, target: str) -> Array:
    """Among x, eps and v."""
    if source == target:
        return value
    formulas: dict[tuple[str, str], Callable[[], Array]] = {
        ("v", "x"): lambda: alpha * z - sigma * value,
        ("v", "eps"): lambda: sigma * z + alpha * value,
        ("x", "eps"): lambda: (z - alpha * value) / sigma,
        ("x", "v"): lambda: (alpha * z - value) / sigma,
        ("eps", "x"): lambda: (z - sigma * value) / alpha,
        ("eps", "v"): lambda: (value - sigma * z) / alpha,
    }
    return formulas[source, target]()


def error_factor(logsnr: Any, source: str, target: str, sigma_data: float = 0.5) -> Array:
    """The squared error of `target` over that of `source`, for the same denoiser.

    Over that of eps: exp(-lambda) for x, 1 / alpha^2 for v, 1 / sigma^2 for the score.

    Raises:
        ValueError: unknown kinds.

    Source: derived from the formulas of `convert`: x = (z - sigma eps) / alpha, v = alpha eps -
    sigma x; Karras et al. (arXiv 2206.00364), equation 8, for F.
    """
    check("source", source)
    check("target", target)
    logsnr = jnp.asarray(logsnr, jnp.result_type(float, logsnr))
    log_alpha2, log_sigma2 = jax.nn.log_sigmoid(logsnr), jax.nn.log_sigmoid(-logsnr)
    scale = edm.scalings(jnp.exp(-0.5 * logsnr), sigma_data)
    of_eps = {  # log of the squared error over that of eps
        "eps": jnp.zeros_like(logsnr),
        "x": -logsnr,
        "D": -logsnr,
        "v": -log_alpha2,
        "score": -log_sigma2,
        "F": -logsnr - 2.0 * jnp.log(scale.out),
    }
    return jnp.exp(of_eps[target] - of_eps[source])


def edm_denoiser(
    denoiser: Callable[..., Array], prediction: str = "v", sigma_data: float = 0.5
) -> Callable[..., Array]:
    """Wrap (z, logsnr [B][, condition]) -> prediction as EDM's (y, sigma [B][, condition]) -> x.

    EDM's y is z / alpha = x + s eps, with s = sigma / alpha. `sigma_data` is that of F.

    Raises:
        ValueError: an unknown prediction.

    Source: derived from Karras et al. (arXiv 2206.00364), equations 4 and 7, whose scale s(t) is
    alpha.
    """
    check("prediction", prediction)

    def predict(y: Array, sigma: Any, *condition: Any) -> Array:
        logsnr = -2.0 * jnp.log(jnp.broadcast_to(jnp.asarray(sigma), y.shape[:1]))
        alpha, _ = alpha_sigma(spread(logsnr, y))
        z = (alpha * y).astype(y.dtype)
        value = denoiser(z, logsnr, *condition)
        return convert(value, z, logsnr, prediction, "x", sigma_data)

    return predict


def logsnr_denoiser(denoiser: Callable[..., Array]) -> Callable[..., Array]:
    """Wrap EDM's (y, sigma [B][, condition]) -> x as (z, logsnr [B][, condition]) -> x.

    Source: derived from Karras et al. (arXiv 2206.00364), equation 4, whose scale s(t) is alpha.
    """

    def predict(z: Array, logsnr: Any, *condition: Any) -> Array:
        logsnr = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        alpha, _ = alpha_sigma(spread(logsnr, z))
        return denoiser((z / alpha).astype(z.dtype), jnp.exp(-0.5 * logsnr), *condition)

    return predict
