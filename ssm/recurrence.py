"""Diagonal linear recurrences x_k = a_k x_{k-1} + b_k, in three ways.

Notation
    a_k  multipliers, [..., P] the same at every step, or [L, ..., P]
    b_k  inputs [L, ..., P]
    x_k  states [L, ..., P]; x_0 is the start
    T    steps of a chunk

    scan         one step after the other: the fewest operations, no parallelism in time
    chunked      all chunks at once from zero, step by step; then x at the chunks' ends, one
                 after the other; then x_k += (a_1 .. a_k within the chunk) x before the chunk
    associative  a prefix scan: of pairs (a, b), in several times the memory; or with constant
                 multipliers of b alone, by halves: x_1, x_3, .. follow from a b_0 + b_1, ..
                 with a^2, then x_0, x_2, .. with a. Logarithmic depth.

With constant multipliers given by their logarithms nothing is lost to their rounding, which
over thousands of steps turns a fast mode too far: single steps multiply by a sum of two numbers,
chunks take a^T, and the prefix scan a^2, a^4, .. from the logarithms themselves.

Complex numbers are carried as pairs of reals: XLA compiles a prefix scan of complex numbers
about ten times slower.

Source: Smith, Warrington, Linderman, S5 (arXiv 2208.04933), section 3.2 and appendix H;
https://kexue.fm/archives/10162.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ssm import vandermonde
from ssm.vandermonde import Modes

METHODS = ("scan", "chunked", "associative")
UNROLL = 8
FEW = 128  # states at which a prefix scan goes on step by step: half the time to compile

Parts = tuple[Array, ...]  # (re,) or (re, im)


def states(
    a: Any,
    b: Any,
    *,
    start: Any = None,
    method: str = "auto",
    chunk: int | None = None,
    reverse: bool = False,
) -> Array:
    """All states of a diagonal linear recurrence.

    Args:
        a: multipliers, real or complex, [..., P], or [L, ..., P] for one at every step, or
            the logarithms of complex ones, `vandermonde.Modes` [..., P]. What stands before P
            broadcasts against b.
        b: inputs [L, ..., P], L >= 1.
        start: x_0 [..., P]; None for zero.
        method: one of `METHODS`, or "auto": "associative", except on CPUs if a is not `Modes`:
            "scan" is then as fast as any and compiles in a tenth of the time. Other devices have
            not been measured.
        chunk: T of "chunked"; None for a power of two near sqrt(L).
        reverse: run from the last step to the first, x_k = a_k x_{k+1} + b_k.

    Returns:
        [L, ..., P], of the common type of the arguments.

    Raises:
        ValueError: unknown method, no steps, chunk < 1 or given for another method, shapes
            that do not broadcast.

    >>> states(jnp.array([0.5]), jnp.ones((3, 1))).ravel().tolist()
    [1.0, 1.5, 1.75]

    Source: S5 (arXiv 2208.04933), section 3.2 and appendix H; https://kexue.fm/archives/10162,
    equation 10, for a diagonal matrix.
    """
    a, b = (a if isinstance(a, Modes) else jnp.asarray(a)), jnp.asarray(b)
    start = jnp.zeros((), b.dtype) if start is None else jnp.asarray(start)
    known = a.rate if isinstance(a, Modes) else a
    _check(known, b, start, method, chunk)
    if method == "auto":
        step_by_step = jax.default_backend() == "cpu" and not isinstance(a, Modes)
        method = "scan" if step_by_step else "associative"
    dtype = jnp.result_type(known, b, start, float)
    varying = known.ndim == b.ndim
    shape = jnp.broadcast_shapes(known.shape[varying:], b.shape[1:])
    length = b.shape[0]
    b = jnp.broadcast_to(b, (length, *shape))
    if reverse:
        a, b = (a[::-1] if varying else a), b[::-1]
    if isinstance(a, Modes):
        dtype = jnp.result_type(dtype, jnp.complex64)
        b_parts, x = (_split(part, dtype) for part in (b, jnp.broadcast_to(start, shape)))
        parts = _constant(a, b_parts, x, method, chunk)
        return jax.lax.complex(*(part[::-1] if reverse else part for part in parts))
    a_parts, b_parts, x = (_split(part, dtype) for part in (a, b, jnp.broadcast_to(start, shape)))
    if method == "scan":
        parts = _scan(a_parts, b_parts, x, varying)
    elif method == "chunked":
        parts = _chunked(a_parts, b_parts, x, varying, _width(length, chunk))
    else:
        parts = _associative(a_parts, b_parts, x)
    result = parts[0] if len(parts) == 1 else jax.lax.complex(*parts)
    return result[::-1] if reverse else result


def check_method(method: str) -> None:
    """Refuse unknown methods."""
    if method not in (*METHODS, "auto"):
        raise ValueError(f"method: expected one of auto, {', '.join(METHODS)}, got {method!r}")


def _check(a: Array, b: Array, start: Array, method: str, chunk: int | None) -> None:
    check_method(method)
    if b.ndim < 1 or b.shape[0] < 1:
        raise ValueError(f"b: expected inputs [L, ..., P] with L >= 1, got shape {b.shape}")
    if chunk is not None and (method != "chunked" or chunk < 1):
        raise ValueError(f"chunk: expected at least 1 with the method chunked, got {chunk}")
    fits = a.ndim < b.ndim or (a.ndim == b.ndim and a.shape[0] == b.shape[0])
    try:
        inner = jnp.broadcast_shapes(a.shape[a.ndim == b.ndim :], b.shape[1:])
        fits = fits and jnp.broadcast_shapes(inner, start.shape) == inner
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"a, start: expected shapes that broadcast against the steps of b {b.shape}, "
            f"got {a.shape} and {start.shape}"
        )


def _split(x: Array, dtype: jnp.dtype) -> Parts:
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return (x.astype(dtype),)
    x = x.astype(dtype)
    return jnp.real(x), jnp.imag(x)


def _times(a: Parts, b: Parts) -> Parts:
    if len(a) == 1:
        return (a[0] * b[0],)
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _plus(a: Parts, b: Parts) -> Parts:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _scan(a: Parts, b: Parts, x: Parts, varying: bool) -> Parts:
    def body(x: Parts, inputs: tuple[Parts, Parts]) -> tuple[Parts, Parts]:
        x = _plus(_times(inputs[0], x), inputs[1])
        return x, x

    def held(x: Parts, inputs: Parts) -> tuple[Parts, Parts]:
        return body(x, (a, inputs))

    step: Callable[..., Any] = body if varying else held
    return jax.lax.scan(step, x, (a, b) if varying else b, unroll=UNROLL)[1]


def _width(length: int, chunk: int | None) -> int:
    return min(chunk or 2 ** round(0.5 * (length.bit_length() - 1)), length)


def _constant(a: Modes, b: Parts, x: Parts, method: str, chunk: int | None) -> Parts:
    """All states, for logarithms of constant multipliers."""
    inner = b[0].ndim - 1
    a = Modes(*(part.reshape((1,) * (inner - part.ndim) + part.shape) for part in a))
    if method == "scan":
        return _steps(a, b, x)
    if method == "associative":
        first = _plus(_times(vandermonde.power(a, 1), x), tuple(part[0] for part in b))
        b = tuple(part.at[0].set(new) for part, new in zip(b, first, strict=True))
        return _prefix(a, b, 1)
    size = _width(b[0].shape[0], chunk)
    inputs = tuple(_fold(part, size) for part in b)
    zero = tuple(jnp.zeros_like(part[0]) for part in inputs)
    local = _steps(a, inputs, zero)
    fade = vandermonde.power(a, jnp.arange(1, size + 1).reshape(-1, *(1,) * (inner + 1)))
    ends = _steps(vandermonde.scaled(a, size), tuple(part[-1] for part in local), x)
    return _joined(local, fade, x, ends, b[0].shape[0])


def _steps(a: Modes, b: Parts, x: Parts) -> Parts:
    """One step after the other, by a sum of two numbers."""
    multiplier, rest = vandermonde.split(a)

    def body(x: Parts, inputs: Parts) -> tuple[Parts, Parts]:
        x = _plus(_times(multiplier, x), _plus(_times(rest, x), inputs))
        return x, x

    return jax.lax.scan(body, x, b, unroll=UNROLL)[1]


def _prefix(a: Modes, b: Parts, stride: int) -> Parts:
    """States x_k = a^stride x_{k-1} + b_k from x_{-1} = 0: half of them, then the others."""
    count = b[0].shape[0]
    if count <= FEW:
        return _steps(
            vandermonde.scaled(a, stride), b, tuple(jnp.zeros_like(part[0]) for part in b)
        )
    multiplier = vandermonde.power(a, stride)
    even, odd = (tuple(part[i::2] for part in b) for i in (0, 1))
    pairs = _plus(_times(multiplier, tuple(part[: count // 2] for part in even)), odd)
    odd = _prefix(a, pairs, 2 * stride)
    later = _plus(
        _times(multiplier, tuple(part[: (count - 1) // 2] for part in odd)),
        tuple(part[1:] for part in even),
    )
    result = []
    for first, after, x in zip(even, later, odd, strict=True):
        evens = jnp.concatenate([first[:1], after])
        both = jnp.stack([evens[: count // 2], x], axis=1).reshape(-1, *x.shape[1:])
        result.append(jnp.concatenate([both, evens[count // 2 :]]) if count % 2 else both)
    return tuple(result)


def _fold(part: Array, size: int) -> Array:
    """[L, ...] to [T, chunks, ...], with zeros at the end."""
    part = jnp.pad(part, [(0, -part.shape[0] % size)] + [(0, 0)] * (part.ndim - 1))
    return part.reshape(-1, size, *part.shape[1:]).swapaxes(0, 1)


def _joined(local: Parts, fade: Parts, x: Parts, ends: Parts, length: int) -> Parts:
    """States [L, ...] from those of chunks that start at zero [T, chunks, ...].

    Args:
        fade: products of the multipliers from each chunk's start, [T, chunks or 1, ...].
        x: before the first chunk.
        ends: at the chunks' ends [chunks, ...].
    """
    before = tuple(
        jnp.concatenate([start[None], end[:-1]]) for start, end in zip(x, ends, strict=True)
    )
    whole = _plus(local, _times(fade, before))
    return tuple(part.swapaxes(0, 1).reshape(-1, *part.shape[2:])[:length] for part in whole)


def _chunked(a: Parts, b: Parts, x: Parts, varying: bool, size: int) -> Parts:
    inputs = tuple(_fold(part, size) for part in b)
    zero = tuple(jnp.zeros_like(part[0]) for part in inputs)
    one = tuple(jnp.full_like(part, i == 0) for i, part in enumerate(x))
    if varying:
        multipliers = tuple(_fold(part, size) for part in a)
        local = _scan(multipliers, inputs, zero, varying=True)
        first = tuple(jnp.full_like(part[0], i == 0) for i, part in enumerate(multipliers))
        nothing = tuple(jnp.zeros_like(part) for part in multipliers)
        fade = _scan(multipliers, nothing, first, varying=True)
    else:
        local = _scan(a, inputs, zero, varying=False)
        nothing = tuple(jnp.zeros((size, *part.shape), part.dtype) for part in one)
        fade = tuple(part[:, None] for part in _scan(a, nothing, one, varying=False))
    chunks = local[0].shape[1]
    over = tuple(jnp.broadcast_to(part[-1], (chunks, *part.shape[2:])) for part in fade)
    ends = _scan(over, tuple(part[-1] for part in local), x, varying=True)
    return _joined(local, fade, x, ends, b[0].shape[0])


def _associative(a: Parts, b: Parts, x: Parts) -> Parts:
    def combine(first: tuple[Parts, Parts], second: tuple[Parts, Parts]):
        return _times(second[0], first[0]), _plus(_times(second[0], first[1]), second[1])

    a = tuple(jnp.broadcast_to(part, b[0].shape) for part in a)
    fade, driven = jax.lax.associative_scan(combine, (a, b))
    return _plus(driven, _times(fade, x))
