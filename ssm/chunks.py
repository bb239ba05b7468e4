"""Dense recurrences over whole signals, by chunks: products of matrices instead of single steps.

Notation
    H, N     channels, size of a state
    a, b, c  x_k = a x_{k-1} + b u_k,  y_k = Re(c x_k), by channel
    e        1 - a: what a step changes; its digits are not lost where a is next to 1
    T        steps of a chunk, a power of two near sqrt(L)

Inside a chunk that starts at x the outputs are y_r = Re(c a^(r+1) x) + sum_j K_j u_{r-j} with
K_j = Re(c a^j b), and the chunk ends at a^T x + sum_r a^(T-1-r) b u_r. The rows c a^r and the
columns a^r b, r < T, come by doubling, 1 - a^2k = e_k (2 - e_k) with e_k = 1 - a^k; only the
states between chunks are computed one after the other. Nothing is diagonalised.

Source: S4 (arXiv 2111.00396), section 2.3 (the recurrent view); the cut into chunks is ours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ssm import convolution


def run(
    e: Array, b: Array, c: Array, u: Array, start: Array, lengths: Array
) -> tuple[Array, Array]:
    """States after the first steps of each example, and all outputs.

    x_k = a x_{k-1} + b u_k,  y_k = Re(c x_k).

    Args:
        e: 1 - a, [H, N, N]; powers of a should not grow: T of them are multiplied.
        b, c: [H, N].
        u: real [B, L, H].
        start: [B, H, N] before the first step.
        lengths: [B] steps of each example that count, 0..L.

    Returns:
        x [B, H, N] after `lengths` steps and y [B, L, H].

    Source: derived from https://kexue.fm/archives/10162, equations 10 and 11.
    """
    length = u.shape[1]
    width = 2 ** ((length - 1).bit_length() + 1 >> 1)
    rows, columns, changes = _tables(e, b, c, width)
    cut = jnp.pad(u, [(0, 0), (0, -length % width), (0, 0)])
    cut = cut.reshape(u.shape[0], -1, width, u.shape[-1])  # [B, Q, T, H]
    driven = _einsum("hnt,bqth->qbhn", columns[..., ::-1], cut)

    def over(x: Array, inputs: Array) -> tuple[Array, Array]:
        return _moved(changes[-1], x) + inputs, x

    last, before = jax.lax.scan(over, start.astype(jnp.result_type(start, driven)), driven)
    taps = _einsum("htn,hn->ht", rows, b).real
    forced = convolution.causal(jnp.moveaxis(cut, -1, -2), taps)
    y = _einsum("htn,qbhn->bqth", rows - _matmul(rows, e), before).real + jnp.moveaxis(
        forced, -2, -1
    )
    y = y.reshape(u.shape[0], -1, u.shape[-1])[:, :length]
    borders = jnp.concatenate([before, last[None]])
    return _finish(changes[:-1], columns, cut, borders, lengths), y


def kernel(e: Array, b: Array, c: Array, length: int) -> Array:
    """Re(c a^l b) for l = 0..length-1, [H, length], by rows c a^r and columns a^(T q) b.

    Source: https://kexue.fm/archives/10162, equation 12, by powers.
    """
    width = 2 ** ((length - 1).bit_length() + 1 >> 1)
    rows, _, changes = _tables(e, b, c, width)
    columns, change = b[..., None], changes[-1]
    while columns.shape[2] * width < length:
        columns = jnp.concatenate([columns, columns - _matmul(change, columns)], axis=2)
        change = _twice(change)
    taps = _einsum("htn,hnq->hqt", rows, columns).real
    return taps.reshape(len(taps), -1)[:, :length]


def _tables(e: Array, b: Array, c: Array, width: int) -> tuple[Array, Array, list[Array]]:
    """Rows c a^r [H, T, N], columns a^r b [H, N, T], and 1 - a^k for k = 1, 2, 4, .., T."""
    rows, columns, changes = c[:, None], b[..., None], [e]
    while rows.shape[1] < width:
        change = changes[-1]
        rows = jnp.concatenate([rows, rows - _matmul(rows, change)], axis=1)
        columns = jnp.concatenate([columns, columns - _matmul(change, columns)], axis=2)
        changes.append(_twice(change))
    return rows, columns, changes


def _twice(change: Array) -> Array:
    """1 - a^2k from 1 - a^k."""
    return 2.0 * change - _matmul(change, change)


def _finish(
    changes: list[Array], columns: Array, cut: Array, borders: Array, lengths: Array
) -> Array:
    """From the last border before `lengths` to there: a^m x + sum_{r<m} a^r b u_{m-1-r}."""
    batch, chunks, width, channels = cut.shape
    whole, rest = lengths // width, lengths % width
    x = jnp.take_along_axis(borders, whole[None, :, None, None], axis=0)[0]
    inside = jnp.take_along_axis(
        cut, jnp.minimum(whole, chunks - 1)[:, None, None, None], axis=1
    ).reshape(batch, width, channels)
    back = rest[:, None] - 1 - jnp.arange(width)
    newest = jnp.take_along_axis(inside, jnp.maximum(back, 0)[..., None], axis=1)
    newest = jnp.where(back[..., None] >= 0, newest, 0.0)
    for bit, change in enumerate(changes):
        x = jnp.where((rest >> bit & 1)[:, None, None] == 1, _moved(change, x), x)
    return x + _einsum("hnt,bth->bhn", columns, newest)


def _einsum(formula: str, *operands: Array) -> Array:
    return jnp.einsum(formula, *operands, precision=jax.lax.Precision.HIGHEST)


def _moved(change: Array, x: Array) -> Array:
    """The state x after the steps of a change."""
    return x - _einsum("hnm,bhm->bhn", change, x)


def _matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
