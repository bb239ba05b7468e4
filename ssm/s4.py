"""S4: one normal-plus-low-rank (DPLR) state space per channel, as a convolution and a recurrence.

Notation
    H, N, R   channels, modes of a channel, rank of the correction
    A         diag(Lambda) - sum_r P_r P_r^*, by channel
    B, C, D   x' = A x + B u,  y = Re(C x) + D u
    a, b      of a bilinear step: a = (1 - dt A/2)^-1 (1 + dt A/2), b = (1 - dt A/2)^-1 dt B
    L         length of the kernel K_l = Re(C a^l b)

At the L-th roots of unity, z^L = 1, the generating function of the first L terms equals that of the
infinite kernel with C~ = C (1 - a^L) in place of C (see `spectrum`). With C~ itself as parameter no
power of a is needed, and an inverse real FFT gives the kernel.

The modes of real systems come in conjugate pairs, of which one mode is stored (`conjugate`).

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

from ssm import checks, chunks, diagonal, fourier, hippo, signals
from ssm.dplr import (
    System,
    all_modes,
    as_complex,
    discrete,
    exact,
    from_dplr,
    is_undamped,
    matmul,
    real_phase,
    share,
    small_inverse,
    truncated,
    with_conjugates,
)
from ssm.mixer import Mixer, over_systems
from ssm.spectrum import spectrum
from ssm.vandermonde import Pair

__all__ = [
    "MEASURES",
    "Config",
    "Step",
    "System",
    "apply",
    "exact",
    "from_dplr",
    "init",
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
SHORT = 128  # exact kernels up to this length come from dense powers, which lose fewer digits


def kernel(system: System, length: int) -> Array:
    """K_0..K_{length-1} of each channel, [H, length], without D.

    Raises:
        ValueError: length < 1, or above the stored one.

    Source: Gu, Goel, Re (arXiv 2111.00396), algorithm 1; https://kexue.fm/archives/10162, equations
    12, 38 and 39.
    """
    checks.system(system, System)
    checks.length(length, system.length)
    short = length <= SHORT or system.lasting >= 30 * length
    if (system.length is None and short) or (system.undamped and not system.conjugate):
        # 1 - a^L may be next to singular, and C~ then without a trace of what has not decayed;
        # or a pole may lie at a frequency.
        plain = exact(system)
        return chunks.kernel(*discrete(plain), all_modes(plain)[3], length)
    if system.length is None:
        system = truncated(system, length)
    size = system.length
    assert size is not None
    return fourier.irfft(spectrum(system, size), size)[..., :length]


def apply(system: System, u: Any) -> Array:
    """The output for a whole signal, starting from the zero state, by convolution.

    y_l = sum_j K_j u_{l-j} + D u_l.

    Args:
        u: real [..., L, H].

    Returns:
        [..., L, H].

    Raises:
        ValueError: an empty u or one longer than the stored length, a wrong H, complex values.

    Source: arXiv 2111.00396, section 2.4; https://kexue.fm/archives/10162, equations 11 and 17.
    """
    checks.system(system, System)
    u = signals.signal(u, system.D.shape[0], system.length)
    return signals.filtered(u, kernel(system, u.shape[-2]), system.D)


@struct.dataclass
class Step:
    """A discretised system, ready for `step`, which costs O(R N) operations per channel.

    Attributes:
        forward: 1 + dt Lambda / 2, complex [H, N].
        backward: 1 / (1 - dt Lambda / 2), [H, N].
        P: [H, R, N].
        read: P^* [H, R, N], doubled for modes that also represent their conjugates; so is C.
        inverse: (1 + dt/2 P^* backward P)^-1 dt/2, [H, R, R].
        B: dt B [H, N].
        C: [H, N].
        D: direct term, [H].
        half: dt/2, [H].
        conjugate: whether the modes are one of each conjugate pair.
    """

    forward: Array
    backward: Array
    P: Array
    read: Array
    inverse: Array
    B: Array
    C: Array
    D: Array
    half: Array
    conjugate: bool = struct.field(pytree_node=False)


def prepare(system: System) -> Step:
    """Discretise the system once for the recurrence; solves for C if C~ is stored.

    Source: arXiv 2111.00396, theorem 2; https://kexue.fm/archives/10162, equation 35, and the text
    behind 39 for C.
    """
    checks.system(system, System)
    half = 0.5 * system.dt
    plain = exact(system)
    Lambda, P, B, C = (as_complex(p) for p in (plain.Lambda, plain.P, plain.B, plain.C))
    backward = 1.0 / (1.0 - half[:, None] * Lambda)
    read = share(system) * P.conj()
    inner = _real(matmul(read * backward[:, None], P.swapaxes(-1, -2)), system.conjugate)
    matrix = jnp.eye(P.shape[1], dtype=half.dtype) + half[:, None, None] * inner
    inverse = half[:, None, None] * small_inverse(matrix)
    forward = 1.0 + half[:, None] * Lambda
    B = system.dt[:, None] * B
    C = share(system) * C
    return Step(forward, backward, P, read, inverse, B, C, plain.D, half, system.conjugate)


def _real(product: Array, conjugate: bool) -> Array:
    """A sum over the kept modes, as that over all of them."""
    return product.real.astype(product.dtype) if conjugate else product


def init_state(system: System, batch: int) -> Pair:
    """The zero state, a pair (real and imaginary parts) of [batch, H, N]."""
    return signals.at_rest(batch, *system.B[0].shape, dtype=signals.dtype(system))


def step(prepared: Step, state: Pair, u: Array) -> tuple[Pair, Array]:
    """One step of the recurrence, a `lax.scan` body.

    x_k = a x_{k-1} + b u_k,  y_k = Re(C x_k) + D u_k.

    Args:
        state: pair [B, H, N].
        u: [B, H].

    Returns:
        The next state, and y [B, H].

    Source: arXiv 2111.00396, theorem 2; https://kexue.fm/archives/10162, equations 10 and 35, with
    the index of the output one lower.
    """
    checks.prepared(prepared, Step)
    signals.check_step(state, u, prepared.B.shape)
    x, p = as_complex(state), prepared

    def along(x: Array) -> Array:
        """P^* x [B, H, R]: real where modes stand for their conjugates too."""
        product = jnp.einsum("hrn,bhn->bhr", p.read, x, precision=jax.lax.Precision.HIGHEST)
        return _real(product, p.conjugate)

    def spread(q: Array) -> Array:
        return jnp.einsum("hrn,bhr->bhn", p.P, q, precision=jax.lax.Precision.HIGHEST)

    moved = p.forward * x - p.half[:, None] * spread(along(x)) + p.B * u[..., None]
    moved = p.backward * moved
    q = jnp.einsum("hrs,bhs->bhr", p.inverse, along(moved), precision=jax.lax.Precision.HIGHEST)
    x = moved - p.backward * spread(q)
    y = jnp.sum(p.C * x, axis=-1).real + p.D * u
    return (x.real, x.imag), y


def prefill(system: System, u: Any, state: Pair, lengths: Any = None) -> tuple[Pair, Array]:
    """Run whole prefixes, chunk by chunk: the state after them and all outputs (see `chunks`).

    Args:
        u: [B, L, H], padded on the right; any L, also above the stored length.
        state: pair [B, H, N] before the first step.
        lengths: [B] number of valid steps of each example, 0..L; None for all.

    Returns:
        The state after `lengths` steps, exactly, and y [B, L, H].

    Source: derived from https://kexue.fm/archives/10162, equations 10 and 11.
    """
    checks.system(system, System)
    u, lengths = signals.prefix(u, system.D.shape[0], lengths)
    signals.check_state(state, (u.shape[0], *system.B[0].shape))
    start = with_conjugates(system, as_complex(state))
    plain = exact(system)
    x, y = chunks.run(*discrete(plain), all_modes(plain)[3], u, start, lengths)
    x = x[..., : system.B[0].shape[-1]]
    return (x.real, x.imag), y + system.D * u


@dataclasses.dataclass(frozen=True)
class Config:
    """A mixer of H channels.

    Attributes:
        channels: H.
        size: N of the state, of which one mode per conjugate pair is stored; even for "legs" and
            "legt", odd for "fout".
        measure: HiPPO measure of the initial A and B, one of `MEASURES`.
        length: L, the longest signal that `apply` takes; C~ is trained for this L.
        dt_min, dt_max: initial step sizes dt are drawn log-uniformly between them.
    """

    channels: int
    length: int
    size: int = 64
    _: dataclasses.KW_ONLY
    measure: str = "legs"
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def __post_init__(self):
        checks.sizes(self, "channels", "length", "size")
        if self.measure not in MEASURES:
            raise ValueError(
                f"measure: expected one of {', '.join(MEASURES)}, got {self.measure!r}"
            )
        if (self.size % 2 == 0) == (self.measure == "fout"):
            kind = "odd" if self.measure == "fout" else "even, for conjugate halves"
            raise ValueError(f"size: {self.measure} needs one that is {kind}, got {self.size}")
        diagonal.check_range(self.dt_min, self.dt_max)


def init(key: Array, config: Config) -> dict[str, Any]:
    """Real arrays: log_decay, frequency [H, M], P [H, R, M, 2], B, C [H, M, 2], D, log_dt [H].

    M counts stored modes: N/2, or (N + 1)/2 with the last one real for "fout". C holds C~, which is
    drawn directly. Undamped poles (of "legt" and "fout") start with a decay rate of 2e-4.
    """
    checks.kind(config, Config)
    system = hippo.dplr(config.measure, config.size)
    kept = np.argsort(-np.imag(system.Lambda))[: (config.size + 1) // 2]
    Lambda, P, B = system.Lambda[kept], system.P[:, kept], system.B[kept]
    if config.size % 2:
        turn = np.where(np.arange(len(kept)) < len(kept) - 1, 1.0, real_phase(B[None, -1:])[0])
        P, B = P * turn, B * turn
    keys = jax.random.split(key, 3)
    shape = (config.channels, len(Lambda))

    def tile(x: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(x, float), (config.channels, *np.shape(x)))

    return {
        "log_decay": tile(diagonal.log_decay(Lambda)),
        "frequency": tile(np.imag(Lambda)),
        "P": tile(np.stack([np.real(P), np.imag(P)], axis=-1)),
        "B": tile(np.stack([np.real(B), np.imag(B)], axis=-1)),
        "C": jax.random.normal(keys[0], (*shape, 2)) * np.sqrt(0.5),
        "D": jax.random.normal(keys[1], shape[:1]),
        "log_dt": diagonal.log_steps(keys[2], config.channels, config.dt_min, config.dt_max),
    }


def system(params: dict[str, Any], config: Config) -> System:
    """The system that the parameters stand for."""
    checks.kind(config, Config)
    size = params["frequency"].shape[-1]
    turns = jnp.arange(size) < size - config.size % 2  # a real mode has real numbers
    P, B, C = (
        (params[name][..., 0], jnp.where(turns, params[name][..., 1], 0.0))
        for name in ("P", "B", "C")
    )
    return System(
        (diagonal.decaying(params["log_decay"]), jnp.where(turns, params["frequency"], 0.0)),
        P,
        B,
        C,
        params["D"],
        jnp.exp(params["log_dt"]),
        length=config.length,
        conjugate=True,
        real=config.size % 2,
        still=config.measure == "fout",  # its constant hardly decays: see `System`
        undamped=_undamped(config.measure, config.size),
    )


@functools.cache
def _undamped(measure: str, size: int) -> bool:
    initial = hippo.dplr(measure, size)
    return is_undamped(initial.Lambda[None], initial.P[None])


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable S4 layer (see `mixer.Mixer`).

    `apply` takes signals up to `config.length`; `prefill` and `step` any number of steps.

    >>> layer = mixer(Config(channels=2, length=8, size=4))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 2))).shape
    (1, 5, 2)

    Source: arXiv 2111.00396, section 3.4, with P P^* in the place of P Q^*.
    """
    checks.kind(config, Config)
    modes = (config.size + 1) // 2
    return over_systems(
        shape=(config.channels, modes),
        init=functools.partial(init, config=config),
        system=functools.partial(system, config=config),
        apply=apply,
        prepare=prepare,
        prefill=prefill,
        step=step,
    )
