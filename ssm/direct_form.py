"""The recurrence of a rational transfer function, and its state after a prompt.

Notation as in `rtf`: the transposed direct form II, whose state depends on the last N inputs u and
outputs v without the direct term,

    s_i = sum_{j >= i} b_j u_{t+i-j} - a_j v_{t+i-j}.

Source: Oppenheim, Schafer, "Discrete-Time Signal Processing" (2009), section 6.3; this state from
inputs and outputs is `scipy.signal.lfiltic`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ssm import checks, convolution, rational, signals
from ssm.fraction import System, exact, from_values, kernel
from ssm.stability import check_stable


@struct.dataclass
class Step:
    """A system ready for `step`.

    Attributes:
        b, a: [H, N].
        direct: [H].
    """

    b: Array
    a: Array
    direct: Array


def prepare(system: System) -> Step:
    """Compute the coefficients of the recurrence once: b from b~, and one row of a per channel.

    Raises:
        ValueError: poles on the unit circle or outside of it, unless traced.

    Source: arXiv 2405.06147, equation 13; https://kexue.fm/archives/10180, the text behind equation
    25.
    """
    checks.system(system, System)
    check_stable(system)
    return step_of(exact(system))


def step_of(plain: System) -> Step:
    """An exact system as `step` takes it, wherever its poles are."""
    repeat = plain.numerator.shape[0] // plain.denominator.shape[0]
    return Step(plain.numerator, jnp.repeat(plain.denominator, repeat, axis=0), plain.direct)


def init_state(system: System, batch: int) -> Array:
    """The zero state, [batch, H, N]."""
    return signals.at_rest(batch, *system.numerator.shape, dtype=signals.dtype(system))[0]


def step(prepared: Step, state: Array, u: Array) -> tuple[Array, Array]:
    """One step of the recurrence, a `lax.scan` body: O(N) operations a channel.

    y = s_1 + h u,  s_i <- s_{i+1} + b_i u - a_i s_1.

    Args:
        state: [B, H, N].
        u: [B, H].

    Returns:
        The next state, and y [B, H].

    Source: Oppenheim and Schafer (2009), section 6.3; arXiv 2405.06147, equation 16, and
    https://kexue.fm/archives/10180, equation 26, both in the companion's coordinates.
    """
    checks.prepared(prepared, Step)
    signals.check_step(state, u, prepared.b.shape)
    v, u = state[..., :1], u[..., None]
    shifted = jnp.concatenate([state[..., 1:], jnp.zeros_like(v)], axis=-1)
    state = shifted + (prepared.b * u - prepared.a * v)
    return state, (v + prepared.direct[:, None] * u)[..., 0]


def prefill(
    system: System, u: Any, state: Array | None = None, lengths: Any = None
) -> tuple[Array, Array]:
    """Run whole prefixes in parallel: final state and outputs, at O(N log N) more than `apply`.

    Args:
        u: [B, L, H], padded on the right; any L.
        state: [B, H, N] before the first step, O(N L) more unless zero; None: zero, less memory.
        lengths: [B] number of valid steps of each example, 0..L; None for all.

    Returns:
        The state after `lengths` steps, exactly, and y [B, L, H].

    Raises:
        ValueError: poles on the unit circle or outside of it, unless traced; what does not fit.

    Source: derived from Oppenheim and Schafer (2009), section 6.3; the state is that of
    `scipy.signal.lfiltic`.
    """
    checks.system(system, System)
    check_stable(system)
    u, lengths = signals.prefix(u, system.direct.shape[0], lengths)
    u = signals.real(u)
    length, size = u.shape[1], system.numerator.shape[1]
    if system.length is not None and length <= system.length:
        whole = kernel(system, system.length)
        plain, values = from_values(system, whole), whole[:, :length]
    else:
        plain = exact(system)
        values = kernel(plain, length)
    one = step_of(plain)
    v = signals.filtered(u, values.at[:, 0].set(0.0))
    if state is not None:
        signals.check_state((state, state), (u.shape[0], *system.numerator.shape))
        v = v + jnp.moveaxis(_free(state, one.a, length), -1, -2)
    after = _correlate(one.b, _newest(u, lengths, size)) - _correlate(
        one.a, _newest(v, lengths, size)
    )
    if state is not None:
        index = jnp.arange(size) + lengths[:, None, None]
        kept = jnp.take_along_axis(state, jnp.minimum(index, size - 1), axis=-1)
        after = after + jnp.where(index < size, kept, 0.0)
    return after, v + one.direct * u


def _newest(u: Array, lengths: Array, count: int) -> Array:
    """The last steps of each example that count, the newest first: [B, H, count]."""
    back = lengths[:, None] - 1 - jnp.arange(count)
    rows = jnp.take_along_axis(u, jnp.maximum(back, 0)[..., None], axis=1)
    return jnp.moveaxis(jnp.where(back[..., None] >= 0, rows, 0.0), -1, -2)


def _correlate(weights: Array, x: Array) -> Array:
    """sum_m weights_{i+m} x_m, [..., N]."""
    count = x.shape[-1]
    size = convolution.fast(2 * count - 1)
    spectrum = jnp.fft.rfft(weights, size) * jnp.fft.rfft(x, size).conj()
    return jnp.fft.irfft(spectrum, size)[..., :count]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _free(state: Array, a: Array, length: int) -> Array:
    """Outputs [B, H, length] of a state without inputs; nothing is computed for one at rest."""
    return jax.lax.cond(
        jnp.any(state != 0),
        lambda: rational.response(state, a, length),
        lambda: jnp.zeros((*state.shape[:-1], length), jnp.result_type(state, a)),
    )


@_free.defjvp
def _free_jvp(length: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    return jax.jvp(lambda state, a: rational.response(state, a, length), primals, tangents)
