"""S4D: one diagonal state space per channel, as a convolution and as a recurrence.

Notation
    H, M     channels; modes of a channel, one of each conjugate pair
    lambda   poles in continuous time [H, M]; a, b: poles and inputs in discrete time
    B, C, D  input [H, M], output [H, M] and direct [H] coefficients
    dt       step of a channel [H]

    x' = lambda x + B u,   y = 2 Re(C x) + D u
    x_k = a x_{k-1} + b u_k,   y_k = 2 Re(C x_k) + D u_k    (a and b: `diagonal`)

The kernel of the convolution is K_l = 2 Re sum_n C_n b_n a_n^l; `vandermonde` computes it in two
factors, and the state after any number of steps by the transposed product. Both views are
functions of one `System`.

Source: Gu, Gupta, Goel, Re, "On the Parameterization and Initialization of Diagonal State Space
Models" (arXiv 2206.11893); https://kexue.fm/archives/10162.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Complex

from ssm import checks, diagonal, hippo, signals, vandermonde
from ssm.mixer import Mixer, over_systems
from ssm.vandermonde import Modes, Pair


@struct.dataclass
class System:
    """A diagonal system of H channels; complex arrays are pairs of real ones.

    Attributes:
        Lambda, B, C: pairs [H, M].
        D: [H].
        dt: [H], positive.
        discretization: one of `diagonal.DISCRETIZATIONS`.
    """

    Lambda: Pair
    B: Pair
    C: Pair
    D: Array
    dt: Array
    discretization: str = struct.field(pytree_node=False, default="zoh")


def from_diagonal(
    Lambda: Any, B: Any, C: Any, D: Any, dt: Any, discretization: str = "zoh"
) -> System:
    """A system from its poles and coefficients, for instance those of a publication.

    Args:
        Lambda, B, C: complex [H, M], one mode of each conjugate pair: y = 2 Re(C x) + D u.
        D, dt: real [H].

    Raises:
        ValueError: unknown discretisation, shapes that do not fit, complex D or dt, dt not
            positive, values that are not finite, bilinear with dt Lambda = 2 (unless traced).

    >>> one = from_diagonal([[-1.0]], [[1.0]], [[0.5]], [0.0], [1.0])
    >>> [round(float(k), 3) for k in kernel(one, 3)[0]]
    [0.632, 0.233, 0.086]
    """
    diagonal.check_rule(discretization)
    if np.ndim(Lambda) != 2 or 0 in np.shape(Lambda):
        raise ValueError(f"Lambda: expected shape [H, M], got {np.shape(Lambda)}")
    whole, channels = np.shape(Lambda), np.shape(Lambda)[:1]
    shapes = {"Lambda": whole, "B": whole, "C": whole, "D": channels, "dt": channels}
    diagonal.check_values(shapes, Lambda=Lambda, B=B, C=C, D=D, dt=dt)
    diagonal.check_step_exists(discretization, Lambda, dt)
    parts = (signals.pair(Lambda), signals.pair(B), signals.pair(C))
    return System(*parts, signals.real(D), signals.real(dt), discretization=discretization)


class Step(NamedTuple):
    """A discretised system, ready for `step`.

    Attributes:
        a, rest: the multiplier as a sum of two numbers, in twice the digits; pairs [H, M].
        b, C: pairs [H, M].
        D: [H].
    """

    a: Pair
    rest: Pair
    b: Pair
    C: Pair
    D: Array


def _modes(system: System) -> Modes:
    return diagonal.modes(system.Lambda, system.dt[:, None], system.discretization)


def _inputs(system: System) -> Pair:
    """Inputs of a step: the module's b."""
    gains = diagonal.gains(system.Lambda, system.dt[:, None], system.discretization)
    return vandermonde.times(gains, system.B)


def prepare(system: System) -> Step:
    """Discretise, once, for the recurrence.

    Source: https://kexue.fm/archives/10162, equations 8 and 9, for a diagonal A.
    """
    checks.system(system, System)
    return Step(*vandermonde.split(_modes(system)), _inputs(system), system.C, system.D)


def kernel(system: System, length: int) -> Array:
    """K_0..K_{length-1} of each channel, [H, length], without D.

    K_l = 2 Re sum_n C_n b_n a_n^l.

    Raises:
        ValueError: length < 1.

    Source: arXiv 2206.11893, section 3.3; https://kexue.fm/archives/10162, equation 12, for a
    diagonal A.
    """
    checks.system(system, System)
    re, im = vandermonde.times(system.C, _inputs(system))
    return vandermonde.kernel((2.0 * re, 2.0 * im), _modes(system), length)


def apply(system: System, u: Any) -> Array:
    """The output for a whole signal, starting from the zero state, by convolution.

    y_l = sum_j K_j u_{l-j} + D u_l.

    Args:
        u: real [..., L, H].

    Returns:
        [..., L, H].

    Raises:
        ValueError: an empty u, a wrong number H of channels, complex values.

    Source: https://kexue.fm/archives/10162, equations 11 and 17.
    """
    checks.system(system, System)
    u = signals.signal(u, system.D.shape[0])
    return signals.filtered(u, kernel(system, u.shape[-2]), system.D)


def init_state(system: System, batch: int) -> Pair:
    """The zero state, a pair (real and imaginary parts) of [batch, H, M]."""
    return signals.at_rest(batch, *system.B[0].shape, dtype=signals.dtype(system))


def step(prepared: Step, state: Pair, u: Array) -> tuple[Pair, Array]:
    """One step of the recurrence, a `lax.scan` body.

    x_k = a x_{k-1} + b u_k,  y_k = 2 Re(C x_k) + D u_k.

    Args:
        state: pair [B, H, M].
        u: [B, H].

    Returns:
        The next state, and y [B, H].

    Source: https://kexue.fm/archives/10162, equation 10, for a diagonal A, with the index of the
    output one lower.
    """
    checks.prepared(prepared, Step)
    signals.check_step(state, u, prepared.b[0].shape)
    turned, more = (vandermonde.times(part, state) for part in (prepared.a, prepared.rest))
    driven = (prepared.b[0] * u[..., None], prepared.b[1] * u[..., None])
    state = (turned[0] + (more[0] + driven[0]), turned[1] + (more[1] + driven[1]))
    y = 2.0 * jnp.sum(prepared.C[0] * state[0] - prepared.C[1] * state[1], axis=-1)
    return state, y + prepared.D * u


def prefill(system: System, u: Any, state: Pair, lengths: Any = None) -> tuple[Pair, Array]:
    """Run whole prefixes without a recurrence: the state after them and all outputs.

    Args:
        u: [B, L, H], padded on the right.
        state: pair [B, H, M] before the first step.
        lengths: [B] number of valid steps of each example, 0..L; None for all.

    Returns:
        The state after `lengths` steps, exactly, and y [B, L, H].

    Source: derived from https://kexue.fm/archives/10162, equations 10 and 11.
    """
    checks.system(system, System)
    u, lengths = signals.prefix(u, system.D.shape[0], lengths)
    length, modes = u.shape[-2], _modes(system)
    signals.check_state(state, (u.shape[0], *system.B[0].shape))
    y = apply(system, u)
    # The past before the first step: 2 Re sum_n C_n a_n^{l+1} x_n.
    a = diagonal.multipliers(system.Lambda, system.dt[:, None], system.discretization)
    re, im = vandermonde.times(system.C, vandermonde.times(a, state))
    y = y + jnp.moveaxis(vandermonde.kernel((2.0 * re, 2.0 * im), modes, length), -1, -2)
    # The newest step that counts comes first: x = a^n x_0 + sum_j a^j b u_{n-1-j}.
    back = lengths[:, None] - 1 - jnp.arange(length)
    newest = jnp.take_along_axis(u, jnp.maximum(back, 0)[..., None], axis=1)
    newest = jnp.where(back[..., None] >= 0, newest, 0.0)
    driven = vandermonde.moments(jnp.moveaxis(newest, -1, -2), modes)
    driven = vandermonde.times(_inputs(system), driven)
    kept = vandermonde.times(vandermonde.power(modes, lengths[:, None, None]), state)
    return (driven[0] + kept[0], driven[1] + kept[1]), y


def poles(init: str, modes: int) -> tuple[Complex[np.ndarray, "m"], Complex[np.ndarray, "m"]]:
    """Initial (Lambda, B) of one channel, complex [M]; n = 0..M-1, N = 2 M, B = 1 but for legs.

    Args:
        init: one of `INITS`.
            lin   -1/2 + i pi n
            inv   -1/2 + i N/pi (N/(2n + 1) - 1)
            inv2  -1/2 + i N/pi (N/(n + 1) - 1)
            quad  -1/2 + i (2n + 1)^2 / pi
            legs  eigenvalues of the normal part of HiPPO-LegS of size N, without its rank-one
                  term, and half of its B: the system with these tends to that of S4 as N grows
            real  -(n + 1)

    Raises:
        ValueError: unknown name, modes < 1.

    Source: arXiv 2206.11893, section 4 and its repository for inv2.
    """
    if init not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}, got {init!r}")
    if modes < 1:
        raise ValueError(f"modes: expected at least 1, got {modes}")
    n, size = np.arange(modes), 2.0 * modes
    if init == "legs":
        system = hippo.dplr("legs", 2 * modes)
        upper = np.imag(system.Lambda) > 0
        return system.Lambda[upper], 0.5 * system.B[upper]
    frequency = {
        "lin": np.pi * n,
        "inv": size / np.pi * (size / (2.0 * n + 1.0) - 1.0),
        "inv2": size / np.pi * (size / (n + 1.0) - 1.0),
        "quad": (2.0 * n + 1.0) ** 2 / np.pi,
        "real": np.zeros(modes),
    }[init]
    decay = -(n + 1.0) if init == "real" else np.full(modes, -0.5)
    return decay + 1j * frequency, np.ones(modes, complex)


INITS = ("lin", "inv", "inv2", "quad", "legs", "real")


@dataclasses.dataclass(frozen=True)
class Config:
    """A mixer of H channels.

    Attributes:
        channels: H.
        modes: M, half the size N of the state.
        init: initial poles and B, one of `INITS` (see `poles`).
        discretization: one of `diagonal.DISCRETIZATIONS`.
        dt_min, dt_max: initial step sizes dt are drawn log-uniformly between them.
    """

    channels: int
    modes: int = 32
    _: dataclasses.KW_ONLY
    init: str = "lin"
    discretization: str = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def __post_init__(self):
        checks.sizes(self, "channels", "modes")
        diagonal.check_range(self.dt_min, self.dt_max)
        diagonal.check_rule(self.discretization)
        poles(self.init, self.modes)


def init(key: Array, config: Config) -> dict[str, Any]:
    """Real arrays: log_decay, frequency [H, M], B, C [H, M, 2] (parts last), D, log_dt [H]."""
    checks.kind(config, Config)
    shape = (config.channels, config.modes)
    Lambda, B = poles(config.init, config.modes)
    keys = jax.random.split(key, 3)
    return {
        "log_decay": jnp.broadcast_to(jnp.asarray(diagonal.log_decay(Lambda), float), shape),
        "frequency": jnp.broadcast_to(jnp.asarray(np.imag(Lambda), float), shape),
        "B": jnp.broadcast_to(
            jnp.asarray(np.stack([np.real(B), np.imag(B)], -1), float), (*shape, 2)
        ),
        "C": jax.random.normal(keys[1], (*shape, 2)) * np.sqrt(0.5),
        "D": jax.random.normal(keys[2], shape[:1]),
        "log_dt": diagonal.log_steps(keys[0], config.channels, config.dt_min, config.dt_max),
    }


def system(params: dict[str, Any], config: Config) -> System:
    """The system that the parameters stand for."""
    checks.kind(config, Config)
    B, C = ((params[name][..., 0], params[name][..., 1]) for name in ("B", "C"))
    return System(
        (diagonal.decaying(params["log_decay"]), params["frequency"]),
        B,
        C,
        params["D"],
        jnp.exp(params["log_dt"]),
        discretization=config.discretization,
    )


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable S4D layer (see `mixer.Mixer`).

    >>> layer = mixer(Config(channels=2, modes=4))
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
