"""DSS: diagonal systems given by poles and weights alone, in two normalisations.

Notation
    H, M     channels, modes of a channel
    lambda   poles in continuous time [H, M]
    W        weights [H, M]
    dt       step of a channel [H]
    L        length over which softmax is normalised

    exp      K_l = Re sum_n W_n (exp(dt lambda_n) - 1)/lambda_n exp(l dt lambda_n)
    softmax  K_l = Re sum_n W_n / lambda_n softmax_l(dt lambda_n l),  l < L

Both are S4D with zero-order hold and B = 1. The first has C = W/2, as there y = 2 Re(C x). The
second has C = W/2 / (exp(L dt lambda) - 1): its weights are, up to a sign, the truncated C~ that
S4 trains, and its kernel is tied to L. Softmax also takes poles with positive real part: their
kernel grows towards L, where it is largest, and is computed backwards from there.

Source: Gupta, Gu, Berant, "Diagonal State Spaces are as Effective as Structured State Spaces"
(arXiv 2203.14343), proposition 1; https://kexue.fm/archives/10162.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from ssm import checks, diagonal, s4d, signals, vandermonde
from ssm.mixer import Mixer, over_systems
from ssm.vandermonde import Pair

NORMALIZATIONS = ("exp", "softmax")


@struct.dataclass
class System:
    """A diagonal system of H channels; complex arrays are pairs of real ones.

    Attributes:
        Lambda, W: pairs [H, M].
        D, dt: [H].
        length: L of softmax; None for exp.
    """

    Lambda: Pair
    W: Pair
    D: Array
    dt: Array
    length: int | None = struct.field(pytree_node=False, default=None)


def from_weights(Lambda: Any, W: Any, D: Any, dt: Any, length: int | None = None) -> System:
    """A system from its poles and weights, for instance those of a publication.

    Args:
        Lambda, W: complex [H, M]; y is the real part of the sum, without the factor 2 of S4D.
        D, dt: real [H].
        length: L of the softmax normalisation; None for exp.

    Raises:
        ValueError: shapes that do not fit, complex D or dt, dt not positive, values that are not
            finite, length < 1; under softmax, which divides by lambda and by the sum over l < L of
            exp(l dt lambda), a pole at zero or a sum that vanishes.
    """
    if np.ndim(Lambda) != 2 or 0 in np.shape(Lambda):
        raise ValueError(f"Lambda: expected shape [H, M], got {np.shape(Lambda)}")
    whole, channels = np.shape(Lambda), np.shape(Lambda)[:1]
    shapes = {"Lambda": whole, "W": whole, "D": channels, "dt": channels}
    diagonal.check_values(shapes, Lambda=Lambda, W=W, D=D, dt=dt)
    if length is not None:
        checks.length(length)
    known = signals.stored(Lambda)
    if length is not None and known is not None:
        if not known.all():
            raise ValueError("Lambda: softmax has no pole at zero")
        _check_sums(known, signals.concrete(dt), length)
    parts = (signals.pair(Lambda), signals.pair(W))
    return System(*parts, signals.real(D), signals.real(dt), length=length)


def _check_sums(Lambda: np.ndarray, dt: np.ndarray | None, length: int) -> None:
    """Refuse a pole whose powers over the length cancel: whole turns without a decay."""
    if dt is None:
        return
    mu = dt[:, None] * Lambda
    mu = np.where(np.real(mu) > 0, -mu, mu)  # backwards from the end: the same ratio
    fall = np.real(mu)
    with np.errstate(all="ignore"):
        whole, size = np.expm1(length * mu), np.expm1(length * fall)
        one, rate = np.expm1(mu), np.expm1(fall)
    size = np.where(fall == 0, length, size / np.where(rate == 0, 1.0, rate))
    if (np.abs(whole) < 1e4 * np.finfo(signals.real(dt).dtype).eps * np.abs(one) * size).any():
        raise ValueError(
            f"Lambda: softmax divides by the sum of exp(l dt lambda) over {length} steps, which "
            "vanishes for a pole that makes whole turns; choose another length or 'exp'"
        )


def kernel(system: System, length: int) -> Array:
    """K_0..K_{length-1} of each channel, [H, length], without D.

    Raises:
        ValueError: length < 1, or above the one that softmax is normalised over.

    Source: arXiv 2203.14343, proposition 1.
    """
    checks.system(system, System)
    if system.length is None:
        return s4d.kernel(as_s4d(system), length)
    checks.length(length, system.length)
    grows, mu = _decaying(system)
    gains = diagonal.gains(mu, system.dt[:, None], "zoh")
    re, im = vandermonde.times(system.W, gains)
    both = [jnp.stack([jnp.where(grows, 0.0, w), jnp.where(grows, w, 0.0)]) for w in (re, im)]
    weights = vandermonde.divide((both[0], both[1]), _remainder(system, mu))
    modes = vandermonde.held(*mu, system.dt[:, None])
    ahead, back = vandermonde.kernel(weights, modes, system.length)
    return (ahead - back[..., ::-1])[..., :length]


def _decaying(system: System) -> tuple[Array, Pair]:
    """Which poles grow, and mu, lambda or -lambda: the weights differ by a sign only."""
    grows = system.Lambda[0] > 0
    sign = jnp.where(grows, -1.0, 1.0)
    return grows, (sign * system.Lambda[0], sign * system.Lambda[1])


def _check_growth(system: System) -> None:
    growth = signals.concrete(system.Lambda[0] * system.dt[:, None] * (system.length or 0))
    limit = 0.5 * float(np.log(np.finfo(system.dt.dtype).max))
    if growth is not None and growth.max() > limit:
        raise ValueError(
            f"Lambda: a state that grows by e^{growth.max():.0f} over {system.length} steps cannot "
            f"be streamed, at most e^{limit:.0f}; `apply` has no such limit"
        )


def _remainder(system: System, Lambda: Pair) -> Pair:
    """exp(L dt lambda) - 1, with the digits of L dt lambda where that is small."""
    dt = system.dt[:, None]
    length = jnp.asarray(system.length)
    re, im = vandermonde.power(vandermonde.held(*Lambda, dt), length)
    near = vandermonde.times(Lambda, diagonal.gains(Lambda, length * dt, "zoh"))
    small = (length * dt) ** 2 * (Lambda[0] ** 2 + Lambda[1] ** 2) < 1.0
    return jnp.where(small, near[0], re - 1.0), jnp.where(small, near[1], im)


def as_s4d(system: System) -> s4d.System:
    """The same system as an `s4d.System`.

    Under softmax the state of a growing pole grows by exp(L dt Re lambda) while its weight is
    smaller by that factor. Above the root of the largest float their product has no digits left.

    Raises:
        ValueError: growth by a larger factor than that (traced: infinity or NaN).

    Source: derived from arXiv 2203.14343, proposition 1.
    """
    W = system.W
    if system.length is not None:
        _check_growth(system)
        grows, mu = _decaying(system)
        W = vandermonde.divide(W, _remainder(system, mu))
        # 1/(exp(z) - 1) = -exp(-z)/(exp(-z) - 1): no large number on the way.
        modes = vandermonde.held(*mu, system.dt[:, None])
        small = vandermonde.times(W, vandermonde.power(modes, jnp.asarray(system.length)))
        W = (jnp.where(grows, -small[0], W[0]), jnp.where(grows, -small[1], W[1]))
    ones = (jnp.ones_like(W[0]), jnp.zeros_like(W[0]))
    C = (0.5 * W[0], 0.5 * W[1])
    return s4d.System(system.Lambda, ones, C, system.D, system.dt)


def apply(system: System, u: Any) -> Array:
    """The output for a whole signal [..., L, H] from rest, by convolution (see `s4d.apply`).

    Source: https://kexue.fm/archives/10162, equations 11 and 17.
    """
    checks.system(system, System)
    u = signals.signal(u, system.D.shape[0], system.length)
    return signals.filtered(u, kernel(system, u.shape[-2]), system.D)


def init_state(system: System, batch: int) -> Pair:
    """The zero state, a pair (real and imaginary parts) of [batch, H, M]."""
    return signals.at_rest(batch, *system.W[0].shape, dtype=signals.dtype(system))


def prepare(system: System) -> s4d.Step:
    """Discretise, once, for `step`."""
    checks.system(system, System)
    return s4d.prepare(as_s4d(system))


step = s4d.step  # poles and states are those of S4D


def prefill(system: System, u: Any, state: Pair, lengths: Any = None) -> tuple[Pair, Array]:
    """Run whole prefixes of any length: the state after them and all outputs (see `s4d.prefill`).

    Growing poles under softmax are limited as in `as_s4d`, here and in `prepare`.
    """
    checks.system(system, System)
    return s4d.prefill(as_s4d(system), u, state, lengths)


@dataclasses.dataclass(frozen=True)
class Config:
    """A mixer of H channels.

    Attributes:
        channels: H.
        length: L of "softmax", the longest signal that `apply` then takes; unused by "exp".
        modes: M, of each channel.
        normalization: "exp" or "softmax".
        dt_min, dt_max: initial step sizes dt are drawn log-uniformly between them.
    """

    channels: int
    length: int
    modes: int = 32
    _: dataclasses.KW_ONLY
    normalization: str = "exp"
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def __post_init__(self):
        checks.sizes(self, "channels", "length", "modes")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalization: expected one of {', '.join(NORMALIZATIONS)}, "
                f"got {self.normalization!r}"
            )
        diagonal.check_range(self.dt_min, self.dt_max)


def init(key: Array, config: Config) -> dict[str, Any]:
    """Real arrays: log_decay (exp) or decay (softmax), frequency [H, M], W [H, M, 2], D, log_dt.

    Initial poles: the normal part of HiPPO-LegS. Under softmax real parts may become positive.
    """
    checks.kind(config, Config)
    Lambda, _ = s4d.poles("legs", config.modes)
    shape = (config.channels, config.modes)
    keys = jax.random.split(key, 3)

    def tile(x: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(x, float), shape)

    exp = config.normalization == "exp"
    value = diagonal.log_decay(Lambda) if exp else -np.real(Lambda)
    return {
        "log_decay" if exp else "decay": tile(value),
        "frequency": tile(np.imag(Lambda)),
        "W": jax.random.normal(keys[0], (*shape, 2)),
        "D": jax.random.normal(keys[1], shape[:1]),
        "log_dt": diagonal.log_steps(keys[2], config.channels, config.dt_min, config.dt_max),
    }


def system(params: dict[str, Any], config: Config) -> System:
    """The system that the parameters stand for."""
    checks.kind(config, Config)
    exp = config.normalization == "exp"
    re = diagonal.decaying(params["log_decay"]) if exp else -params["decay"]
    W = (params["W"][..., 0], params["W"][..., 1])
    length = None if exp else config.length
    dt = jnp.exp(params["log_dt"])
    return System((re, params["frequency"]), W, params["D"], dt, length=length)


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable DSS layer (see `mixer.Mixer`).

    >>> layer = mixer(Config(channels=2, length=8, modes=4, normalization="softmax"))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 2))).shape
    (1, 5, 2)
    """
    checks.kind(config, Config)
    return over_systems(
        shape=(config.channels, config.modes),
        init=functools.partial(init, config=config),
        system=functools.partial(system, config=config),
        apply=apply,
        prepare=prepare,
        prefill=prefill,
        step=step,
    )
