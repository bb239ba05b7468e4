"""Selective state spaces (Mamba): diagonal systems whose step sizes, B and C depend on the input.

Notation
    B, L, d  batch, time, channels of the mixer
    E, N, R  inner channels, states of each, rank of the map from inputs to step sizes
    dt_l     step sizes [E], softplus(W_dt W_r u_l + bias)
    B_l, C_l [N], the same for all channels
    A        decay rates [E, N], negative: -exp(log_decay)
    params   in [d, 2 E]; convolution {weight [W, E], bias [E]}; select [E, R + 2 N];
             step {matrix [R, E], bias [E]}; log_decay [E, N]; D [E]; output [E, d]

    x_l = exp(dt_l A) x_{l-1} + dt_l u_l B_l        y_l = C_l x_l + D u_l

A is discretised by zero-order hold, B by Euler's method. As the multipliers vary with the input,
this is neither a convolution nor a recurrence with constant ones. Signals run in chunks of T steps,
of which only the last states are stored; the backward pass recomputes the others: memory for
L / T + T states, where one prefix scan over the whole signal needs several times L.

Source: Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces" (arXiv
2312.00752), algorithm 2 and section 3.4.
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

METHODS = ("scan", "associative")
UNROLL = 4


def scan(
    u: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    *,
    start: Any = None,
    method: str = "auto",
    chunk: int | None = None,
) -> tuple[Array, Array]:
    """The output of a selective system and its last state.

    Args:
        u, dt: inputs and step sizes [B, L, E]; where dt is 0 the state does not change.
        A: [E, N], negative.
        B, C: [B, L, N].
        D: [E]; None for zeros.
        start: states [B, E, N] before the first step; None for zero.
        method: within a chunk, "scan" runs step by step, "associative" is a prefix scan of
            logarithmic depth; "auto" is "scan" on CPUs and "associative" elsewhere.
        chunk: T; None for a power of two near sqrt(L).

    Returns:
        y [B, L, E] and the state [B, E, N].

    Raises:
        ValueError: shapes that do not fit, complex values, unknown method, chunk < 1.

    Source: Mamba (arXiv 2312.00752), algorithm 2 and equation 2, A by equation 4 and B by
    Euler's step; chunks and recomputation: section 3.3.
    """
    u, dt, A, B, C = (signals.real(part) for part in (u, dt, A, B, C))
    _check(u, dt, A, B, C, method, chunk)
    signals.check_skip(D, A.shape[:1], u, dt, A, B, C)
    if method == "auto":
        method = "scan" if jax.default_backend() == "cpu" else "associative"
    batch, length, _ = u.shape
    width = 2 ** round(math.log2(length) / 2) if chunk is None else min(chunk, length)
    x = jnp.zeros((batch, *A.shape), u.dtype) if start is None else signals.real(start)
    if x.shape != (batch, *A.shape):
        raise ValueError(f"start: expected shape {(batch, *A.shape)}, got {x.shape}")

    dtype = jnp.result_type(u, dt, A, B, C, x)
    x, A = x.astype(dtype), A.astype(dtype)

    def chunks(part: Array) -> Array:
        """[L / T, T, B, .], padded with zeros, which are steps of no time."""
        part = jnp.pad(part.astype(dtype), ((0, 0), (0, -length % width), (0, 0)))
        return jnp.moveaxis(part, 1, 0).reshape(-1, width, batch, part.shape[-1])

    body = {"scan": _by_steps, "associative": _by_prefixes}[method]
    one = jax.checkpoint(functools.partial(body, A=A), prevent_cse=False)
    x, y = jax.lax.scan(one, x, tuple(chunks(part) for part in (u, dt, B, C)))
    y = jnp.moveaxis(y.reshape(-1, batch, u.shape[-1])[:length], 0, 1)
    return (y if D is None else y + signals.real(D) * u), x


def _check(u: Array, dt: Array, A: Array, B: Array, C: Array, method: str, chunk: Any) -> None:
    if u.ndim != 3 or u.shape[1] < 1 or dt.shape != u.shape:
        raise ValueError(f"u, dt: expected shapes [B, L, E] both, got {u.shape} and {dt.shape}")
    if A.ndim != 2 or A.shape[0] != u.shape[2]:
        raise ValueError(f"A: expected shape [{u.shape[2]}, N], got {A.shape}")
    if not B.shape == C.shape == (*u.shape[:2], A.shape[1]):
        expected = (*u.shape[:2], A.shape[1])
        raise ValueError(f"B, C: expected shape {expected}, got {B.shape} and {C.shape}")
    if method not in (*METHODS, "auto"):
        raise ValueError(f"method: expected one of auto, {', '.join(METHODS)}, got {method!r}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: expected at least 1, got {chunk}")


def _driven(row: tuple[Array, ...], A: Array) -> tuple[Array, Array]:
    """Multipliers and inputs [..., B, E, N] of the recurrence."""
    u, dt, B, _ = row
    return jnp.exp(dt[..., None] * A), (dt * u)[..., None] * B[..., None, :]


def _read(x: Array, C: Array) -> Array:
    return jnp.sum(x * C[..., None, :], axis=-1)


def _by_steps(x: Array, rows: tuple[Array, ...], A: Array) -> tuple[Array, Array]:
    """A chunk, one step after the other."""

    def step(x: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        fade, driven = _driven(row, A)
        x = fade * x + driven
        return x, _read(x, row[3])

    return jax.lax.scan(step, x, rows, unroll=UNROLL)


def _by_prefixes(x: Array, rows: tuple[Array, ...], A: Array) -> tuple[Array, Array]:
    """A chunk, by a prefix scan of its states."""

    def combine(first: tuple[Array, Array], second: tuple[Array, Array]):
        return second[0] * first[0], second[0] * first[1] + second[1]

    fade, driven = jax.lax.associative_scan(combine, _driven(rows, A))
    states = fade * x + driven
    return states[-1], _read(states, rows[3])


@dataclasses.dataclass(frozen=True)
class Config:
    """A Mamba block as a mixer of d channels.

    Attributes:
        channels: d.
        expand: E / d.
        states: N.
        rank: R of the map from inputs to step sizes; None for d / 16, rounded up.
        width: W, taps of the convolution.
        method, chunk: of the recurrence (see `scan`).
        dt_min, dt_max: initial step sizes dt are drawn log-uniformly between them.
    """

    channels: int
    _: dataclasses.KW_ONLY
    expand: int = 2
    states: int = 16
    rank: int | None = None
    width: int = 4
    method: str = "auto"
    chunk: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def __post_init__(self):
        checks.sizes(self, "channels", "expand", "states", "rank", "width", "chunk")
        if self.method not in (*METHODS, "auto"):
            raise ValueError(
                f"method: expected one of auto, {', '.join(METHODS)}, got {self.method!r}"
            )
        diagonal.check_range(self.dt_min, self.dt_max)

    @property
    def inner(self) -> int:
        """E."""
        return self.expand * self.channels

    @property
    def steps_rank(self) -> int:
        """R, with the default resolved."""
        return -(-self.channels // 16) if self.rank is None else self.rank


def init(key: Array, config: Config) -> dict[str, Any]:
    """Matrices of variance 1/fan-in; A_n = -(n + 1), biases that give steps in the range."""
    checks.kind(config, Config)
    keys, inner, rank = jax.random.split(key, 6), config.inner, config.steps_rank

    def matrix(key: Array, rows: int, columns: int) -> Array:
        return jax.random.normal(key, (rows, columns)) * rows**-0.5

    dt = jnp.exp(diagonal.log_steps(keys[4], inner, config.dt_min, config.dt_max))
    decay = jnp.log(jnp.arange(1.0, config.states + 1))
    return {
        "in": matrix(keys[0], config.channels, 2 * inner),
        "convolution": short_convolution.init(keys[1], inner, config.width),
        "select": matrix(keys[2], inner, rank + 2 * config.states),
        "step": {"matrix": matrix(keys[3], rank, inner), "bias": dt + jnp.log(-jnp.expm1(-dt))},
        "log_decay": jnp.broadcast_to(decay, (inner, config.states)),
        "D": jnp.ones(inner),
        "output": matrix(keys[5], inner, config.channels),
    }


def _selected(params: dict[str, Any], u: Array, config: Config) -> tuple[Array, Array, Array]:
    """Dt [..., E], B and C [..., N] of inputs u [..., E]."""
    parts = u @ params["select"].astype(u.dtype)
    low, B, C = jnp.split(parts, [config.steps_rank, config.steps_rank + config.states], axis=-1)
    step = params["step"]
    dt = jax.nn.softplus(signals.real(low @ step["matrix"].astype(u.dtype)) + step["bias"])
    return dt, B, C


def _decay(params: dict[str, Any]) -> Array:
    return -jnp.exp(signals.real(params["log_decay"]))


def _run(params: dict[str, Any], u: Array, state: Any, lengths: Array, config: Config) -> Any:
    inside, gate = jnp.split(u @ params["in"].astype(u.dtype), 2, axis=-1)
    last, inside = short_convolution.prefill(params["convolution"], inside, state[0], lengths)
    inside = jax.nn.silu(inside)
    dt, B, C = _selected(params, inside, config)
    counts = jnp.arange(u.shape[1]) < lengths[:, None]
    dt = jnp.where(counts[..., None], dt, 0.0)  # what does not count takes no time
    options = {"method": config.method, "chunk": config.chunk}
    y, x = scan(inside, dt, _decay(params), B, C, params["D"], start=state[1], **options)
    return (last, x.astype(state[1].dtype)), _out(params, y.astype(u.dtype), gate)


def _out(params: dict[str, Any], y: Array, gate: Array) -> Array:
    return (y * jax.nn.silu(gate)) @ params["output"].astype(y.dtype)


def _step(
    params: dict[str, Any], state: tuple[Array, Array], u: Array, *, config: Config
) -> tuple[tuple[Array, Array], Array]:
    """One step [B, d], a `lax.scan` body."""
    signals.check_step(state[1], u, (config.channels,), (config.inner, config.states))
    u = signals.real(u)
    inside, gate = jnp.split(u @ params["in"].astype(u.dtype), 2, axis=-1)
    last, inside = short_convolution.step(params["convolution"], state[0], inside)
    inside = jax.nn.silu(inside)
    dt, B, C = _selected(params, inside, config)
    fade, driven = _driven((inside, dt, B, C), _decay(params))
    x = fade * state[1] + driven
    y = _read(x, C) + params["D"] * inside
    return (last, x.astype(state[1].dtype)), _out(params, y.astype(u.dtype), gate)


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable Mamba block (see `mixer.Mixer`).

    >>> layer = mixer(Config(channels=4, states=2))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 4))).shape
    (1, 5, 4)

    Source: Mamba (arXiv 2312.00752), figure 3 and sections 3.4 and 3.6 (low rank of the steps,
    initial values).
    """
    checks.kind(config, Config)
    return over_blocks(
        channels=config.channels,
        convolved=config.inner,
        width=config.width,
        shape=(config.inner, config.states),
        init=functools.partial(init, config=config),
        run=functools.partial(_run, config=config),
        step=functools.partial(_step, config=config),
    )
