"""Rational transfer functions as systems: kernels, and the two forms of their numerators.

Notation as in `rtf`. The numerator b gives the whole, infinite response b / a; the numerator b~,
which RTF trains, gives its first L values alone, as one period of a periodic response.

Source: arXiv 2405.06147.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ssm import checks, rational


@struct.dataclass
class System:
    """Rational transfer functions of H channels.

    Attributes:
        numerator: [H, N].
        denominator: [G, N], without the leading 1.
        direct: [H].
        length: L if the numerator is b~ for kernels up to that length; None if it is b.
        delay: of the numerator's first coefficient, 0 or 1.
        radius: r of the circle |z| = 1/r on which b~ is evaluated; 1 without a length.
    """

    numerator: Array
    denominator: Array
    direct: Array
    length: int | None = struct.field(pytree_node=False, default=None)
    delay: int = struct.field(pytree_node=False, default=1)
    radius: float = struct.field(pytree_node=False, default=1.0)


def check_form(size: int, length: int | None, delay: int, radius: float) -> None:
    """Refuse impossible combinations."""
    if delay not in (0, 1):
        raise ValueError(f"delay: expected 0 or 1, got {delay}")
    if length is not None and length <= size:
        raise ValueError(f"length: expected more than the size of the state, {size}, got {length}")
    if not 0 < radius <= 1 or (length is None and radius != 1):
        raise ValueError(
            f"radius: expected a number in (0, 1], and 1 without a length, got {radius}"
        )


def grouped(system: System) -> tuple[Array, Array]:
    """Numerator [G, H/G, N] and denominator [G, 1, N]."""
    groups, size = system.denominator.shape
    return system.numerator.reshape(groups, -1, size), system.denominator[:, None]


def flat(rows: Array) -> Array:
    """[G, H/G, ...] to [H, ...]."""
    return rows.reshape(-1, *rows.shape[2:])


def kernel(system: System, length: int) -> Array:
    """K_0..K_{length-1} of each channel, [H, length], with `direct` in K_0.

    With a stored length L, the inverse FFT of FFT(b~) / FFT(1, a) on L points; without one, the
    power series of b / a in z^-1, term by term.

    Raises:
        ValueError: length < 1, or above the stored one.

    Source: https://kexue.fm/archives/10180, equation 18 (with a length) and the series of
    equation 8 (without), one step later with a delay of 1; arXiv 2405.06147.
    """
    checks.system(system, System)
    checks.length(length, system.length)
    if system.length is not None:
        values = _period(system)[:, :length]
        return values.at[:, 0].add(system.direct)
    values = flat(rational.response(*grouped(system), max(length - system.delay, 1)))
    if system.delay:
        return jnp.concatenate([system.direct[:, None], values], axis=1)[:, :length]
    return values.at[:, 0].add(system.direct)


def _period(system: System) -> Array:
    """Values of b~ / a at the L-th roots of unity, transformed back: [H, L]."""
    b, a = grouped(system)
    size, count, r = b.shape[-1], system.length, system.radius
    assert count is not None
    if r != 1.0:
        b = b * rational.scale(r, size, b.dtype, system.delay)
        a = a * rational.scale(r, size, a.dtype, 1)
    b = jnp.pad(b, [(0, 0), (0, 0), (system.delay, 0)])
    values = flat(rational.periodic(b, a, count))
    return values if r == 1.0 else values * rational.scale(1.0 / r, count, b.dtype)


def exact(system: System) -> System:
    """The same system with b in the place of b~ and a delay of 1, in O(L log L).

    `direct` becomes K_0, including the value K_L that wraps around to it.

    Source: derived from https://kexue.fm/archives/10180, equations 6 and 16: C from C~ = C (I -
    A^L), without the matrix.
    """
    b, a = grouped(system)
    if system.length is not None:
        whole = kernel(system, system.length)
        return from_values(system, whole)
    if system.delay:
        return system
    # b_1 + b_2 w + ... = b_1 (1 + a_1 w + ...) + w (b_2 - a_1 b_1 + ...)
    later = jnp.concatenate([b[..., 1:], jnp.zeros_like(b[..., :1])], axis=-1) - b[..., :1] * a
    direct = system.direct + system.numerator[:, 0]
    return System(flat(later), system.denominator, direct)


def from_values(system: System, whole: Array) -> System:
    """The exact system of a stored one, from its kernel `whole` [H, L].

    Source: derived from https://kexue.fm/archives/10180, equation 8: coefficients of both sides
    times the denominator.
    """
    b, a = grouped(system)
    first = whole[:, 1 : b.shape[-1] + 1].reshape(b.shape)
    b = rational.multiply(first, rational.with_one(a))[..., : b.shape[-1]]
    return System(flat(b), system.denominator, whole[:, 0])


def truncated(system: System, length: int, radius: float = 1.0, method: str = "steps") -> System:
    """The truncated form of an exact system: b~ for kernels up to `length` in place of b.

    b~ = b - r^L (z^L b mod a) (see `rational`).

    With a delay of 1 the value that wraps around is subtracted from `direct`: kernels stay equal.

    Args:
        radius: r. The points lie on |z| = 1/r; with r^L = 0.1, for instance, poles on the unit
            circle do no harm and one digit is lost. 1: the unit circle, as in the paper.
        method: "steps", the state of the recurrence after L steps, O(N L) and accurate; or
            "squaring", z^L modulo the denominator, O(N log N log L), useless for clustered poles.

    Raises:
        ValueError: a system that is truncated already, length <= N, a radius outside (0, 1],
            an unknown method.

    Source: derived from https://kexue.fm/archives/10180, equation 16: C~ = C (I - A^L) by
    polynomials; arXiv 2405.06147.
    """
    if system.length is not None:
        raise ValueError(f"system: expected exact coefficients, got those for {system.length}")
    if method not in ("steps", "squaring"):
        raise ValueError(f"method: expected steps or squaring, got {method!r}")
    check_form(system.numerator.shape[1], length, system.delay, radius)
    b, a = grouped(system)
    wrap, count = radius**length, length - system.delay
    if method == "steps":
        before = rational.steps(b, a, count)[1]
    else:
        before = rational.after(b, a, count)
    direct = system.direct
    if system.delay:  # the state leads with the value that wraps
        direct = direct - wrap * flat(before[..., 0])
        before = rational.times_z(before, a)
    b = flat(b - wrap * before)
    return System(
        b, system.denominator, direct, length=length, delay=system.delay, radius=float(radius)
    )
