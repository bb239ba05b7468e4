"""S5: one diagonal state space for all channels, run as a recurrence.

Notation
    H, P     channels; modes, one of each conjugate pair unless conjugate=False
    lambda   poles in continuous time [P]; a, b: discrete poles and input gains (see `diagonal`)
    B, C, D  inputs [P, H], outputs [H, P] and direct terms [H]
    dt       step of a mode [P]
    s_k      duration of step k in units of dt, for irregular samples

    x_k = a x_{k-1} + b B u_k,   y_k = 2 Re(C x_k) + D u_k

As all channels share one state, there is a kernel for each pair of channels; the recurrence, with P
numbers per step, is cheaper than H^2 convolutions, in parallel over time too (see `recurrence`).

Source: Smith, Warrington, Linderman, "Simplified State Space Layers for Sequence Modeling"
(arXiv 2208.04933); https://kexue.fm/archives/10162.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from ssm import checks, diagonal, hippo, recurrence, signals, vandermonde
from ssm.mixer import Mixer, no_steps, over_systems
from ssm.vandermonde import Modes, Pair


@struct.dataclass
class System:
    """A diagonal system of H channels and P modes; complex arrays are pairs of real ones.

    Attributes:
        Lambda: pair [P].
        B: pair [P, H].
        C: pair [H, P].
        D: [H].
        dt: [P], positive.
        backward: a second C for the recurrence from the end, pair [H, P], or None.
        discretization: one of `diagonal.DISCRETIZATIONS`.
        conjugate: whether every mode stands for its conjugate too, y = 2 Re(C x).
    """

    Lambda: Pair
    B: Pair
    C: Pair
    D: Array
    dt: Array
    backward: Pair | None = None
    discretization: str = struct.field(pytree_node=False, default="zoh")
    conjugate: bool = struct.field(pytree_node=False, default=True)


def from_diagonal(
    Lambda: Any,
    B: Any,
    C: Any,
    D: Any,
    dt: Any,
    discretization: str = "zoh",
    conjugate: bool = True,
    backward: Any = None,
) -> System:
    """A system from its poles and coefficients, for instance those of a publication.

    Args:
        Lambda: complex [P].
        B, C: complex [P, H] and [H, P].
        D, dt: real [H] and [P].
        conjugate: the modes are one of each conjugate pair, y = 2 Re(C x) + D u; otherwise
            all of them, y = Re(C x) + D u.
        backward: C of a second recurrence, from the last step to the first, with the same
            inputs: bidirectional systems, which cannot be streamed.

    Raises:
        ValueError: unknown discretisation, shapes that do not fit, complex D or dt, dt not
            positive, values that are not finite, bilinear with dt Lambda = 2 (unless traced).

    >>> one = from_diagonal([-1.0], [[1.0]], [[0.5]], [0.0], [1.0])
    >>> [round(float(k), 3) for k in kernel(one, 3)[0, 0]]
    [0.632, 0.233, 0.086]
    """
    diagonal.check_rule(discretization)
    if np.ndim(Lambda) != 1 or np.ndim(D) != 1 or 0 in (*np.shape(Lambda), *np.shape(D)):
        raise ValueError(
            f"Lambda, D: expected shapes [P] and [H], got {np.shape(Lambda)} and {np.shape(D)}"
        )
    modes, channels = np.shape(Lambda)[0], np.shape(D)[0]
    outputs = (channels, modes)
    shapes = {"Lambda": (modes,), "B": (modes, channels), "C": outputs, "backward": outputs}
    shapes |= {"D": (channels,), "dt": (modes,)}
    rest = {} if backward is None else {"backward": backward}
    diagonal.check_values(shapes, Lambda=Lambda, B=B, C=C, D=D, dt=dt, **rest)
    diagonal.check_step_exists(discretization, Lambda, dt)
    return System(
        signals.pair(Lambda),
        signals.pair(B),
        signals.pair(C),
        signals.real(D),
        signals.real(dt),
        None if backward is None else signals.pair(backward),
        discretization=discretization,
        conjugate=conjugate,
    )


def kernel(system: System, length: int) -> Array:
    """K_l = 2 Re(C a^l b B), [H_out, H_in, length], without D and the backward part.

    Source: derived from https://kexue.fm/archives/10162, equation 12.
    """
    checks.system(system, System)
    modes = diagonal.modes(system.Lambda, system.dt, system.discretization)
    gains = diagonal.gains(system.Lambda, system.dt, system.discretization)
    B = (system.B[0].T, system.B[1].T)  # [H, P]
    C = (_share(system) * system.C[0][:, None], _share(system) * system.C[1][:, None])
    return vandermonde.kernel(vandermonde.times(C, vandermonde.times(gains, B)), modes, length)


def _share(system: System) -> float:
    return 2.0 if system.conjugate else 1.0


def _driven(system: System, u: Array, steps: Array | None) -> tuple[Modes | Array, Array]:
    """Multipliers and complex inputs [L, ..., P] of the recurrence.

    The multipliers are those of every step, complex [L, ..., P], or logarithms [P].

    Args:
        u: [L, ..., H].
        steps: [L] or [L, ...].
    """
    dt = system.dt
    if steps is not None:
        dt = steps.reshape(*steps.shape, *(1,) * (u.ndim - steps.ndim)) * dt
    rule = (system.Lambda, dt, system.discretization)
    into = (_product(u, system.B[0].T), _product(u, system.B[1].T))
    inputs = vandermonde.times(diagonal.gains(*rule), into)
    if steps is None:
        return diagonal.modes(*rule), jax.lax.complex(*inputs)
    return jax.lax.complex(*diagonal.multipliers(*rule)), jax.lax.complex(*inputs)


def _product(x: Array, matrix: Array) -> Array:
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)


def _read(system: System, C: Pair, x: Array) -> Array:
    """2 Re(C x) of states [..., P]."""
    return _share(system) * (_product(x.real, C[0].T) - _product(x.imag, C[1].T))


def apply(
    system: System, u: Any, steps: Any = None, *, method: str = "auto", start: Any = None
) -> Array:
    """The output for a whole signal.

    Args:
        u: real [..., L, H].
        steps: positive durations [L] or [..., L] in units of dt; None for ones.
        method: how the recurrence is computed (see `recurrence.states`).
        start: complex states [..., P] before the first step; None for zero.

    Returns:
        [..., L, H].

    Raises:
        ValueError: an empty u, a wrong H, complex values, durations of a wrong shape or sign.

    Source: arXiv 2208.04933, section 3.2; https://kexue.fm/archives/10162, equation 10, with
    matrices B and C.
    """
    checks.system(system, System)
    return _run(system, u, steps, method, start)[1]


def _run(system: System, u: Any, steps: Any, method: str, start: Any) -> tuple[Array, Array]:
    """All states [L, ..., P] and outputs [..., L, H]."""
    u = signals.signal(u, system.D.shape[0])
    steps = None if steps is None else _durations(steps, u.shape[:-1])
    a, b = _driven(system, jnp.moveaxis(u, -2, 0), steps)
    states = recurrence.states(a, b, start=start, method=method)
    y = _read(system, system.C, states)
    if system.backward is not None:
        back = recurrence.states(a, b, method=method, reverse=True)
        y = y + _read(system, system.backward, back)
    return states, jnp.moveaxis(y, 0, -2) + system.D * u


def _durations(steps: Any, shape: tuple[int, ...]) -> Array:
    steps = signals.real(steps)
    if steps.shape not in (shape, shape[-1:]) or jnp.iscomplexobj(steps):
        either = "" if len(shape) == 1 else f" or {shape}"
        raise ValueError(
            f"steps: expected real numbers of shape {shape[-1:]}{either}, got {steps.dtype} "
            f"{steps.shape}"
        )
    known = signals.concrete(steps)
    if known is not None and not ((known > 0) & np.isfinite(known)).all():
        raise ValueError(f"steps: expected positive, finite durations, got {known.min()}")
    return jnp.moveaxis(steps, -1, 0)


class Step(NamedTuple):
    """A discretised system, ready for `step`.

    Attributes:
        a, rest: the multiplier as a sum of two numbers, in twice the digits; pairs [P].
        b: discrete input matrix, pair [P, H].
        system: the continuous system, for its C and D.
    """

    a: Pair
    rest: Pair
    b: Pair
    system: System


def prepare(system: System) -> Step:
    """Discretise, once, for the recurrence.

    Raises:
        ValueError: a bidirectional system.

    Source: https://kexue.fm/archives/10162, equations 8 and 9, for a diagonal A.
    """
    _check_causal(system)
    rule = (system.Lambda, system.dt, system.discretization)
    re, im = diagonal.gains(*rule)
    b = vandermonde.times((re[:, None], im[:, None]), system.B)
    return Step(*vandermonde.split(diagonal.modes(*rule)), b, system)


def _check_causal(system: Any) -> None:
    checks.system(system, System)
    if system.backward is not None:
        no_steps()


def init_state(system: System, batch: int) -> Pair:
    """The zero state, a pair (real and imaginary parts) of [batch, P]."""
    return signals.at_rest(batch, system.dt.shape[0], dtype=signals.dtype(system))


def step(prepared: Step, state: Pair, u: Array) -> tuple[Pair, Array]:
    """One step of the recurrence, a `lax.scan` body.

    Args:
        state: pair [B, P].
        u: [B, H].

    Returns:
        The next state, and y [B, H].

    Source: arXiv 2208.04933; https://kexue.fm/archives/10162, equation 10, with matrices B and C.
    """
    checks.prepared(prepared, Step)
    system = prepared.system
    signals.check_step(state, u, system.D.shape, prepared.a[0].shape)
    turned, more = (vandermonde.times(part, state) for part in (prepared.a, prepared.rest))
    driven = (_product(u, part.T) for part in prepared.b)
    re, im = (x + (y + z) for x, y, z in zip(turned, more, driven, strict=True))
    return (re, im), _read(system, system.C, jax.lax.complex(re, im)) + system.D * u


def prefill(
    system: System, u: Any, state: Pair, lengths: Any = None, *, method: str = "auto"
) -> tuple[Pair, Array]:
    """Run whole prefixes: the state after them and all outputs.

    Args:
        u: [B, L, H], padded on the right.
        state: pair [B, P] before the first step.
        lengths: [B] number of valid steps of each example, 0..L; None for all.

    Returns:
        The state after `lengths` steps and y [B, L, H].

    Source: derived from https://kexue.fm/archives/10162, equation 10.
    """
    _check_causal(system)
    u, lengths = signals.prefix(u, system.D.shape[0], lengths)
    signals.check_state(state, (u.shape[0], system.dt.shape[0]))
    start = jax.lax.complex(*state)
    states, y = _run(system, u, None, method, start)
    every = jnp.concatenate([start[None], states])
    last = jnp.take_along_axis(every, lengths[None, :, None], axis=0)[0]
    return (last.real, last.imag), y


@dataclasses.dataclass(frozen=True)
class Config:
    """A mixer of H channels.

    Attributes:
        channels: H.
        modes: P, half the size of the state.
        blocks: J copies of the poles of the normal part of HiPPO-LegS of size 2 P / J.
        discretization: one of `diagonal.DISCRETIZATIONS`.
        bidirectional: adds a recurrence from the end; such a mixer cannot be streamed.
        method: how the recurrence is computed, one of `recurrence.METHODS` or "auto".
        dt_min, dt_max: initial step sizes dt are drawn log-uniformly between them.
    """

    channels: int
    modes: int = 32
    _: dataclasses.KW_ONLY
    blocks: int = 1
    discretization: str = "zoh"
    bidirectional: bool = False
    method: str = "auto"
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def __post_init__(self):
        checks.sizes(self, "channels", "modes", "blocks")
        if self.modes % self.blocks:
            raise ValueError(f"modes: expected multiples of {self.blocks} blocks, got {self.modes}")
        recurrence.check_method(self.method)
        diagonal.check_range(self.dt_min, self.dt_max)
        diagonal.check_rule(self.discretization)


def init(key: Array, config: Config) -> dict[str, Any]:
    """Real arrays: log_decay, frequency, log_dt [P], B [P, H, 2], C [H, P, 2] (parts last), D [H].

    Before diagonalisation B and C are normal with variances 1/H and 1/(2 P). With the eigenvectors
    V of each block, B_modes = V^* B and C_modes = C V. Bidirectional mixers also have `backward`,
    drawn like C.
    """
    checks.kind(config, Config)
    half = config.modes // config.blocks
    block = hippo.dplr("legs", 2 * half)
    upper = np.imag(block.Lambda) > 0
    Lambda = np.tile(block.Lambda[upper], config.blocks)
    V = jnp.asarray(np.stack([np.real(block.V), np.imag(block.V)])[..., upper], float)
    keys = jax.random.split(key, 5)
    shape = (config.blocks, 2 * half, config.channels)
    B = jax.random.normal(keys[0], shape) / np.sqrt(config.channels)
    into = jnp.stack([jnp.einsum("nm,jnh->jmh", part, B) for part in (V[0], -V[1])], axis=-1)

    def outputs(key: Array) -> Array:
        C = jax.random.normal(key, shape) / np.sqrt(2.0 * config.modes)
        whole = jnp.stack([jnp.einsum("nm,jnh->hjm", part, C) for part in V], axis=-1)
        return whole.reshape(config.channels, config.modes, 2)

    params = {
        "log_decay": jnp.asarray(diagonal.log_decay(Lambda), float),
        "frequency": jnp.asarray(np.imag(Lambda), float),
        "B": into.reshape(config.modes, config.channels, 2),
        "C": outputs(keys[1]),
        "D": jax.random.normal(keys[2], (config.channels,)),
        "log_dt": diagonal.log_steps(keys[3], config.modes, config.dt_min, config.dt_max),
    }
    return params | ({"backward": outputs(keys[4])} if config.bidirectional else {})


def system(params: dict[str, Any], config: Config) -> System:
    """The system that the parameters stand for."""
    checks.kind(config, Config)

    def parts(name: str) -> Pair:
        return params[name][..., 0], params[name][..., 1]

    return System(
        (diagonal.decaying(params["log_decay"]), params["frequency"]),
        parts("B"),
        parts("C"),
        params["D"],
        jnp.exp(params["log_dt"]),
        parts("backward") if config.bidirectional else None,
        discretization=config.discretization,
    )


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable S5 layer (see `mixer.Mixer`).

    `apply` also takes `steps`, durations [..., L] of irregular samples.

    >>> layer = mixer(Config(channels=2, modes=4))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 2))).shape
    (1, 5, 2)
    """
    checks.kind(config, Config)
    return over_systems(
        shape=(config.modes,),
        init=functools.partial(init, config=config),
        system=functools.partial(system, config=config),
        apply=functools.partial(apply, method=config.method),
        prepare=prepare,
        prefill=functools.partial(prefill, method=config.method),
        step=step,
    )
