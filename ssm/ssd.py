"""Mamba-2: selective state spaces with one decay per head, computed by matrix products.

Notation
    B, L, d     batch, time, channels of the mixer
    E = H P     inner channels: H heads of P channels each
    N, G        states of each channel; number of groups of heads that share B and C
    dt_l, A     step sizes [H], softplus; decay rates [H], negative: -exp(log_decay)
    B_l, C_l    [G, N]
    s_l         dt_1 A + ... + dt_l A within a chunk of T steps [H]
    params      in [d, 2 E + 2 G N + H]; convolution {weight [W, E + 2 G N], bias}; log_decay, D,
                step_bias [H]; norm [E]; output [E, d]

    S_l = exp(dt_l A) S_{l-1} + dt_l x_l B_l^T        y_l = S_l C_l + D x_l        S [P, N]

Within a chunk y_i = sum_{j <= i} exp(s_i - s_j) (C_i . B_j) dt_j x_j + exp(s_i) S_0 C_i: attention
without softmax, with scores that decay over time. Chunks run one after another; only the states
between them are stored for the backward pass.

Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 6 and listing 1.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ssm import checks, diagonal, short_convolution, signals
from ssm.mixer import Mixer, over_blocks

EPSILON = 1e-5


def scan(
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    *,
    start: Any = None,
    chunk: int = 64,
) -> tuple[Array, Array]:
    """The output of a selective system with one decay a head, and its last state.

    Args:
        x: [B, L, H, P].
        dt: step sizes [B, L, H]; where dt is 0 the state does not change.
        A: [H], negative.
        B, C: [B, L, G, N], G a divisor of H.
        D: [H]; None for zeros.
        start: state [B, H, P, N] before the first step; None for rest.
        chunk: T.

    Returns:
        y [B, L, H, P] and the state [B, H, P, N].

    Raises:
        ValueError: shapes that do not fit, complex values, chunk < 1.

    Source: Mamba-2 (arXiv 2405.21060), section 6 and listing 1.
    """
    x, dt, A, B, C = (signals.real(part) for part in (x, dt, A, B, C))
    _check(x, dt, A, B, C, chunk)
    signals.check_skip(D, A.shape, x, dt, A, B, C)
    batch, length, heads, width = x.shape
    groups, states, size = B.shape[2], B.shape[3], min(chunk, length)
    shape = (batch, heads, width, states)
    state = jnp.zeros(shape, x.dtype) if start is None else signals.real(start)
    if state.shape != shape:
        raise ValueError(f"start: expected shape {shape}, got {state.shape}")

    dtype = jnp.result_type(x, dt, A, B, C, state)
    state = state.astype(dtype)

    def chunks(part: Array) -> Array:
        """[L / T, B, T, ...], padded with zeros, which are steps of no time."""
        part = jnp.pad(
            part.astype(dtype), ((0, 0), (0, -length % size), *(((0, 0),) * (part.ndim - 2)))
        )
        return jnp.moveaxis(part.reshape(batch, -1, size, *part.shape[2:]), 1, 0)

    grouped = (batch, length, groups, heads // groups)
    rows = ((dt[..., None] * x).reshape(*grouped, width), (dt * A).reshape(grouped), B, C)
    body = jax.checkpoint(_chunk, prevent_cse=False)
    state = state.reshape(batch, groups, heads // groups, width, states)
    state, y = jax.lax.scan(body, state, tuple(chunks(part) for part in rows))
    y = jnp.moveaxis(y, 0, 1).reshape(batch, -1, heads, width)[:, :length]
    return (y if D is None else y + signals.real(D)[:, None] * x), state.reshape(shape)


def _check(x: Array, dt: Array, A: Array, B: Array, C: Array, chunk: int) -> None:
    if x.ndim != 4 or x.shape[1] < 1 or dt.shape != x.shape[:3]:
        raise ValueError(
            f"x, dt: expected shapes [B, L, H, P] and [B, L, H], got {x.shape} and {dt.shape}"
        )
    if A.shape != x.shape[2:3]:
        raise ValueError(f"A: expected shape {x.shape[2:3]}, got {A.shape}")
    if B.ndim != 4 or B.shape != C.shape or B.shape[:2] != x.shape[:2] or x.shape[2] % B.shape[2]:
        raise ValueError(
            f"B, C: expected shape {(*x.shape[:2], 'G', 'N')} with G a divisor of {x.shape[2]}, "
            f"got {B.shape} and {C.shape}"
        )
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1, got {chunk}")


def _chunk(state: Array, rows: tuple[Array, ...]) -> tuple[Array, Array]:
    """State [B, G, R, P, N], and one chunk: inputs [B, T, G, R, P], logarithms [B, T, G, R]."""
    x, logs, B, C = rows
    s = jnp.cumsum(logs, axis=1)
    time = s.shape[1]
    falls = s[:, :, None] - s[:, None]  # [B, i, j, G, R]
    causal = jnp.tril(jnp.ones((time, time), bool))[..., None, None]
    fade = jnp.exp(jnp.where(causal, falls, -jnp.inf))  # not afterwards: inf * 0 has no gradient
    scores = jnp.einsum("bign,bjgn->bijg", C, B)[..., None] * fade
    y = jnp.einsum("bijgr,bjgrp->bigrp", scores, x)
    y = y + jnp.exp(s)[..., None] * jnp.einsum("bign,bgrpn->bigrp", C, state)
    rest = jnp.exp(s[:, -1:] - s)[..., None] * x
    driven = jnp.einsum("bjgrp,bjgn->bgrpn", rest, B)
    return jnp.exp(s[:, -1])[..., None, None] * state + driven, y


@dataclasses.dataclass(frozen=True)
class Config:
    """A Mamba-2 block as a mixer of d channels.

    Attributes:
        channels: d.
        expand: E / d.
        head_dim: P, a divisor of E; None: 64, or the largest smaller power of 2 that divides E.
        states: N.
        groups: G, a divisor of H = E / P.
        width: W, taps of the convolution.
        chunk: T (see `scan`).
        dt_min, dt_max: initial step sizes dt are drawn log-uniformly between them.
        decay_min, decay_max: initial -A are drawn uniformly between them.
    """

    channels: int
    _: dataclasses.KW_ONLY
    expand: int = 2
    head_dim: int | None = None
    states: int = 64
    groups: int = 1
    width: int = 4
    chunk: int = 64
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    decay_min: float = 1.0
    decay_max: float = 16.0

    def __post_init__(self):
        checks.sizes(self, "channels", "expand", "head_dim", "states", "groups", "width", "chunk")
        if self.inner % self.per_head:
            raise ValueError(f"head_dim: expected a divisor of {self.inner}, got {self.head_dim}")
        if self.heads % self.groups:
            raise ValueError(f"groups: expected a divisor of {self.heads}, got {self.groups}")
        if not 0 < self.decay_min <= self.decay_max:
            raise ValueError(
                "decay_min, decay_max: expected 0 < decay_min <= decay_max, got "
                f"{self.decay_min}, {self.decay_max}"
            )
        diagonal.check_range(self.dt_min, self.dt_max)

    @property
    def inner(self) -> int:
        """E."""
        return self.expand * self.channels

    @property
    def heads(self) -> int:
        """H."""
        return self.inner // self.per_head

    @property
    def per_head(self) -> int:
        """P."""
        return math.gcd(self.inner, 64) if self.head_dim is None else self.head_dim

    @property
    def convolved(self) -> int:
        """Channels of the convolution, E + 2 G N."""
        return self.inner + 2 * self.groups * self.states


def init(key: Array, config: Config) -> dict[str, Any]:
    """Matrices of variance 1/fan-in; biases that give steps in the range."""
    checks.kind(config, Config)
    keys, heads, d = jax.random.split(key, 5), config.heads, config.channels
    columns = config.inner + config.convolved + heads
    dt = jnp.exp(diagonal.log_steps(keys[2], heads, config.dt_min, config.dt_max))
    low, high = config.decay_min, config.decay_max
    return {
        "in": jax.random.normal(keys[0], (d, columns)) * d**-0.5,
        "convolution": short_convolution.init(keys[1], config.convolved, config.width),
        "step_bias": dt + jnp.log(-jnp.expm1(-dt)),
        "log_decay": jnp.log(jax.random.uniform(keys[3], (heads,), minval=low, maxval=high)),
        "D": jnp.ones(heads),
        "norm": jnp.ones(config.inner),
        "output": jax.random.normal(keys[4], (config.inner, d)) * config.inner**-0.5,
    }


def _parts(params: dict[str, Any], u: Array, config: Config) -> tuple[Array, Array, Array]:
    """Gate, what is convolved, and dt [..., H]."""
    places = [config.inner, config.inner + config.convolved]
    gate, inside, dt = jnp.split(u @ params["in"].astype(u.dtype), places, axis=-1)
    return gate, inside, jax.nn.softplus(signals.real(dt) + params["step_bias"])


def _selected(inside: Array, config: Config) -> tuple[Array, Array, Array]:
    """X [..., H, P], B and C [..., G, N] of what was convolved."""
    inside = jax.nn.silu(inside)
    states = config.groups * config.states
    x, B, C = jnp.split(inside, [config.inner, config.inner + states], axis=-1)
    x = x.reshape(*x.shape[:-1], config.heads, config.per_head)
    B, C = (part.reshape(*part.shape[:-1], config.groups, config.states) for part in (B, C))
    return x, B, C


def _out(params: dict[str, Any], y: Array, gate: Array) -> Array:
    """RMSNorm behind the gate, then the output's matrix."""
    y = signals.real(y.reshape(gate.shape) * jax.nn.silu(gate))
    y = y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + EPSILON) * params["norm"]
    return y.astype(gate.dtype) @ params["output"].astype(gate.dtype)


def _run(params: dict[str, Any], u: Array, state: Any, lengths: Array, config: Config) -> Any:
    gate, inside, dt = _parts(params, u, config)
    last, inside = short_convolution.prefill(params["convolution"], inside, state[0], lengths)
    x, B, C = _selected(inside, config)
    counts = jnp.arange(u.shape[1]) < lengths[:, None]
    dt = jnp.where(counts[..., None], dt, 0.0)  # what does not count takes no time
    A = -jnp.exp(signals.real(params["log_decay"]))
    y, final = scan(x, dt, A, B, C, params["D"], start=state[1], chunk=config.chunk)
    return (last, final.astype(state[1].dtype)), _out(params, y.astype(u.dtype), gate)


def _step(
    params: dict[str, Any], state: tuple[Array, Array], u: Array, *, config: Config
) -> tuple[tuple[Array, Array], Array]:
    """One step [B, d], a `lax.scan` body."""
    shape = (config.heads, config.per_head, config.states)
    signals.check_step(state[1], u, (config.channels,), shape)
    gate, inside, dt = _parts(params, signals.real(u), config)
    last, inside = short_convolution.step(params["convolution"], state[0], inside)
    x, B, C = _selected(inside, config)
    share = config.heads // config.groups
    B, C = (jnp.repeat(part, share, axis=-2)[..., None, :] for part in (B, C))
    fade = jnp.exp(-dt * jnp.exp(signals.real(params["log_decay"])))
    final = fade[..., None, None] * state[1] + (dt[..., None] * x)[..., None] * B
    y = jnp.sum(final * C, axis=-1) + params["D"][:, None] * x
    return (last, final.astype(state[1].dtype)), _out(params, y.astype(u.dtype), gate)


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable Mamba-2 block (see `mixer.Mixer`).

    >>> layer = mixer(Config(channels=4, head_dim=2, states=3))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 4))).shape
    (1, 5, 4)

    Source: Mamba-2 (arXiv 2405.21060).
    """
    checks.kind(config, Config)
    return over_blocks(
        channels=config.channels,
        convolved=config.convolved,
        width=config.width,
        shape=(config.heads, config.per_head, config.states),
        init=functools.partial(init, config=config),
        run=functools.partial(_run, config=config),
        step=functools.partial(_step, config=config),
    )
