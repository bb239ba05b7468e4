"""S4: a normal-plus-low-rank state space a channel, as a convolution and as a recurrence.

Notation
    H, N, R   channels, modes of a channel, rank of the correction
    A         diag(Lambda) - sum_r P_r P_r^*, by channel
    B, C, D   x' = A x + B u,  y = Re(C x) + D u
    a, b      of a bilinear step: a = (1 - dt A/2)^-1 (1 + dt A/2), b = (1 - dt A/2)^-1 dt B
    L         length of the kernel K_l = Re(C a^l b)
    s, c      sin and cos of theta/2 at the frequencies theta_j = 2 pi j / L
    w         dt Lambda / 2

The generating function of the first L terms at z = exp(-i theta_j), where z^L = 1, is

    sum_{l<L} K_l z^l = C~ (1 - a z)^-1 b
                      = exp(i theta/2) (dt/2) C~ [i s - c w + c (dt/2) P P^*]^-1 B

with C~ = C (1 - a^L): no power of a is left when C~ itself is the parameter. Woodbury's identity
turns the inverse into (1 + R)^2 sums over poles (see `cauchy`) and one of size R.

Real systems have their modes in conjugate pairs; then one of each pair is kept (`conjugate`).

Source: Gu, Goel, Re, "Efficiently Modeling Long Sequences with Structured State Spaces"
(arXiv 2111.00396), section 3 and appendix C; https://kexue.fm/archives/10162.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from ssm import cauchy, chunks, diagonal, hippo
from ssm.dplr import (
    System,
    all_modes,
    as_complex,
    dense,
    discrete,
    exact,
    from_dplr,
    matmul,
    truncated,
)
from ssm.mixer import Mixer, over_systems
from ssm.vandermonde import Pair, divide, times

__all__ = [
    "MEASURES",
    "Config",
    "Step",
    "System",
    "apply",
    "exact",
    "from_dplr",
    "init_params",
    "init_state",
    "kernel",
    "mixer",
    "prefill",
    "prepare",
    "step",
    "system",
    "truncated",
]

MEASURES = ("legs", "legt", "fout")


def kernel(system: System, length: int) -> Array:
    """K_0..K_{length-1} of each channel, [H, length], without D.

    Raises:
        ValueError: length < 1, or above the stored one.
    """
    if length < 1 or (system.length is not None and length > system.length):
        most = "" if system.length is None else f" and at most the stored {system.length}"
        raise ValueError(f"length: expected at least 1{most}, got {length}")
    if system.length is None:
        system = truncated(system, length)
    size = system.length
    assert size is not None
    return jnp.fft.irfft(_spectrum(system, size), size)[..., :length]


def _spectrum(system: System, length: int) -> Array:
    """The generating function of the kernel at the frequencies of a real transform, [H, L/2+1]."""
    dt = system.dt[:, None]
    w = (0.5 * dt * system.Lambda[0], 0.5 * dt * system.Lambda[1])
    P, B, C = (as_complex(part) for part in (system.P, system.B, system.C))
    left = jnp.concatenate([C[:, None], P.conj()], axis=1)
    right = jnp.concatenate([B[:, None], P], axis=1)
    rows = (left[:, :, None] * right[:, None]).reshape(len(B), -1, B.shape[-1])
    if not system.conjugate:
        # With v and with -i v: the sums over the modes alone and over their conjugates alone.
        rows = jnp.concatenate([rows, -1j * rows], axis=1)

    def combine(parts: Pair, angles: Pair) -> Pair:
        s, c = angles
        weight = 0.5 * dt * c
        if system.conjugate:
            inner = _woodbury(parts, weight)
        else:
            plain, turned = jnp.split(as_complex(parts), 2, axis=1)
            both = [0.5 * (plain + sign * 1j * turned) for sign in (1.0, -1.0)]
            alone = [_woodbury((part.real, part.imag), weight) for part in both]
            inner = (0.5 * (alone[0][0] + alone[1][0]), 0.5 * (alone[0][1] + alone[1][1]))
        return times((weight, 0.5 * dt * s), inner)

    sums = cauchy.conjugate_sums((rows.real, rows.imag), w, length, then=combine)
    spectrum = as_complex(sums)
    if system.still:
        spectrum = spectrum.at[:, 0].set(_at_rest(system))
    return spectrum


def _woodbury(sums: Pair, weight: Array) -> Pair:
    """k_CB - weight k_CP (1 + weight k_PP)^-1 k_PB from sums [H, (1 + R)^2, J].

    In real arithmetic for R <= 2: the compiler's complex division is slow.
    """
    count = round(sums[0].shape[1] ** 0.5)
    k = {
        (i, j): (sums[0][:, i * count + j], sums[1][:, i * count + j])
        for i in range(count)
        for j in range(count)
    }
    if count == 1:
        return k[0, 0]
    if count == 2:
        below = _one_plus(weight, k[1, 1])
        fix = divide(times(k[0, 1], k[1, 0]), below)
    elif count == 3:
        p, t = _one_plus(weight, k[1, 1]), _one_plus(weight, k[2, 2])
        q, r = ((weight * part[0], weight * part[1]) for part in (k[1, 2], k[2, 1]))
        x, y = k[1, 0], k[2, 0]
        first = times(k[0, 1], _minus(times(t, x), times(q, y)))
        second = times(k[0, 2], _minus(times(p, y), times(r, x)))
        fix = divide(_plus(first, second), _minus(times(p, t), times(q, r)))
    else:
        whole = jnp.moveaxis(as_complex(sums), 1, -1)
        whole = whole.reshape(*whole.shape[:2], count, count)
        inner = jnp.eye(count - 1) + weight[..., None, None] * whole[..., 1:, 1:]
        solved = jnp.linalg.solve(inner, whole[..., 1:, :1])[..., 0]
        value = jnp.sum(whole[..., 0, 1:] * solved, axis=-1)
        fix = (value.real, value.imag)
    return k[0, 0][0] - weight * fix[0], k[0, 0][1] - weight * fix[1]


def _one_plus(weight: Array, k: Pair) -> Pair:
    return 1.0 + weight * k[0], weight * k[1]


def _plus(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def _minus(a: Pair, b: Pair) -> Pair:
    return a[0] - b[0], a[1] - b[1]


def _at_rest(system: System) -> Array:
    """The spectrum at frequency zero, -Re(C~ A^-1 B) [H], by a dense solve."""
    _, _, B, C = all_modes(system)
    A = dense(system)
    solved = jnp.linalg.solve(A, B[..., None])[..., 0]
    return -jnp.sum(C * solved, axis=-1).real.astype(C.dtype)


def apply(system: System, u: Any) -> Array:
    """The output for a whole signal from rest, by convolution.

    Args:
        u: real [..., L, H].

    Returns:
        [..., L, H].

    Raises:
        ValueError: no steps or more than the stored length, other channels, complex values.
    """
    u = diagonal.signal(u, system.D.shape[0])
    return diagonal.filtered(u, kernel(system, u.shape[-2]), system.D)


@struct.dataclass
class Step:
    """A system in discrete time, ready for `step`: O(R N) operations a channel.

    Attributes:
        forward: 1 + dt Lambda / 2, complex [H, N].
        backward: 1 / (1 - dt Lambda / 2), [H, N].
        P: [H, R, N].
        inverse: (1 + dt/2 P^* backward P)^-1 dt/2, [H, R, R].
        B: dt B [H, N].
        C: [H, N].
        D, half: direct term and dt/2, [H].
        conjugate: whether the modes are one of each conjugate pair.
    """

    forward: Array
    backward: Array
    P: Array
    inverse: Array
    B: Array
    C: Array
    D: Array
    half: Array
    conjugate: bool = struct.field(pytree_node=False)


def prepare(system: System) -> Step:
    """Discretise, once, for the recurrence; solves for C where C~ is stored."""
    half = 0.5 * system.dt
    plain = exact(system)
    Lambda, P, B, C = (as_complex(p) for p in (plain.Lambda, plain.P, plain.B, plain.C))
    backward = 1.0 / (1.0 - half[:, None] * Lambda)
    inner = matmul(P.conj() * backward[:, None], P.swapaxes(-1, -2))
    inner = _paired(inner, system.conjugate)
    matrix = jnp.eye(P.shape[1]) + half[:, None, None] * inner
    inverse = half[:, None, None] * jnp.linalg.inv(matrix)
    forward = 1.0 + half[:, None] * Lambda
    B = system.dt[:, None] * B
    return Step(forward, backward, P, inverse, B, C, plain.D, half, system.conjugate)


def _paired(product: Array, conjugate: bool) -> Array:
    """A sum over modes with that over their conjugates."""
    return 2.0 * product.real.astype(product.dtype) if conjugate else product


def init_state(system: System, batch: int) -> Pair:
    """States at rest [batch, H, N]."""
    return diagonal.at_rest(batch, *system.B[0].shape, dtype=system.B[0].dtype)


def step(prepared: Step, state: Pair, u: Array) -> tuple[Pair, Array]:
    """One step of the recurrence, a `lax.scan` body.

    Args:
        state: pair [B, H, N].
        u: [B, H].

    Returns:
        The next state, and y [B, H].
    """
    diagonal.check_state(state, (*u.shape, prepared.B.shape[-1]))
    x, p = as_complex(state), prepared

    def along(x: Array) -> Array:
        """P^* x [B, H, R]: real where modes stand for their conjugates too."""
        product = jnp.einsum("hrn,bhn->bhr", p.P.conj(), x, precision=jax.lax.Precision.HIGHEST)
        return _paired(product, p.conjugate)

    def spread(q: Array) -> Array:
        return jnp.einsum("hrn,bhr->bhn", p.P, q, precision=jax.lax.Precision.HIGHEST)

    moved = p.forward * x - p.half[:, None] * spread(along(x)) + p.B * u[..., None]
    moved = p.backward * moved
    q = jnp.einsum("hrs,bhs->bhr", p.inverse, along(moved), precision=jax.lax.Precision.HIGHEST)
    x = moved - p.backward * spread(q)
    y = _paired(jnp.sum(p.C * x, axis=-1), p.conjugate).real + p.D * u
    return (x.real, x.imag), y


def prefill(system: System, u: Any, state: Pair, lengths: Any = None) -> tuple[Pair, Array]:
    """The state and the outputs after whole prefixes, by chunks (see `chunks`).

    Args:
        u: [B, L, H], padded on the right; any L.
        state: pair [B, H, N] before the first step.
        lengths: [B] steps of each example that count, 0..L; None for all.

    Returns:
        The state after `lengths` steps, exactly, and y [B, L, H].
    """
    u = diagonal.signal(u, system.D.shape[0])
    diagonal.check_state(state, (u.shape[0], *system.B[0].shape))
    lengths = jnp.full(u.shape[:1], u.shape[-2]) if lengths is None else jnp.asarray(lengths)
    start = as_complex(state)
    plain = exact(system)
    if system.conjugate:
        start = jnp.concatenate([start, start.conj()], axis=-1)
    a, b = discrete(plain)
    x, y = chunks.run(a, b, all_modes(plain)[3], u, start, lengths)
    x = x[..., : system.B[0].shape[-1]]
    return (x.real, x.imag), y + system.D * u


@dataclasses.dataclass(frozen=True)
class Config:
    """A mixer of H channels.

    Attributes:
        channels: H.
        size: N of the state; even for "legs" and "legt", whose modes are kept by halves, odd
            for "fout".
        measure: one of `MEASURES`.
        length: L of the longest signal in convolution mode; C~ is trained for it.
        dt_min, dt_max: steps are drawn between them, evenly in their logarithm.
    """

    channels: int
    length: int
    size: int = 64
    measure: str = "legs"
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def __post_init__(self):
        for name in ("channels", "length", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.measure not in MEASURES:
            raise ValueError(
                f"measure: expected one of {', '.join(MEASURES)}, got {self.measure!r}"
            )
        if (self.size % 2 == 0) == (self.measure == "fout"):
            kind = "odd" if self.measure == "fout" else "even, for conjugate halves"
            raise ValueError(f"size: {self.measure} needs one that is {kind}, got {self.size}")
        diagonal.check_range(self.dt_min, self.dt_max)


def init_params(config: Config, key: Array) -> dict[str, Any]:
    """Real arrays: log_decay, frequency [H, M], P [H, R, M, 2], B, C [H, M, 2], D, log_dt [H].

    M is N/2, one of each conjugate pair; N for "fout". C is C~, drawn directly. Poles without
    decay of their own ("legt", "fout") start at the least one, 1e-4.
    """
    system = hippo.dplr(config.measure, config.size)
    kept = np.imag(system.Lambda) > (-np.inf if config.measure == "fout" else 0.0)
    Lambda, P, B = system.Lambda[kept], system.P[:, kept], system.B[kept]
    keys = jax.random.split(key, 3)
    shape = (config.channels, len(Lambda))

    def tile(x: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(x, float), (config.channels, *np.shape(x)))

    decay = np.maximum(-np.real(Lambda), diagonal.DECAY)
    return {
        "log_decay": tile(np.log(decay)),
        "frequency": tile(np.imag(Lambda)),
        "P": tile(np.stack([np.real(P), np.imag(P)], axis=-1)),
        "B": tile(np.stack([np.real(B), np.imag(B)], axis=-1)),
        "C": jax.random.normal(keys[0], (*shape, 2)) * np.sqrt(0.5),
        "D": jax.random.normal(keys[1], shape[:1]),
        "log_dt": diagonal.log_steps(keys[2], config.channels, config.dt_min, config.dt_max),
    }


def system(config: Config, params: dict[str, Any]) -> System:
    """The system that the parameters stand for."""
    P, B, C = ((params[name][..., 0], params[name][..., 1]) for name in ("P", "B", "C"))
    return System(
        (diagonal.decaying(params["log_decay"]), params["frequency"]),
        P,
        B,
        C,
        params["D"],
        jnp.exp(params["log_dt"]),
        length=config.length,
        conjugate=config.measure != "fout",
        still=config.measure == "fout",  # its constant hardly decays: see `System`
    )


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable S4 layer (see `mixer.Mixer`).

    `apply` takes signals up to `config.length`; `prefill` and `step` any number of steps.

    >>> layer = mixer(Config(channels=2, length=8, size=4))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 2))).shape
    (1, 5, 2)
    """
    modes = config.size if config.measure == "fout" else config.size // 2
    return over_systems(
        shape=(config.channels, modes),
        init=functools.partial(init_params, config),
        system=functools.partial(system, config),
        apply=apply,
        prepare=prepare,
        prefill=prefill,
        step=step,
    )
