"""Where the poles of rational transfer functions lie, and what they do: on the host, in float64.

Source: arXiv 2405.06147; the step-down recursion: Kailath, "Linear Systems" (1980).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssm import rational, signals
from ssm.fraction import System, exact, kernel


def spectral_margin(system: System, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How close each denominator comes to zero at the L frequencies of the kernel, on the host.

    Args:
        length: L, for a system that stores none.

    Returns:
        The least |denominator| over the sum of |coefficients|, and its FFT bin, both [G].

    Raises:
        ValueError: a length that is neither stored nor given.

    Source: derived from https://kexue.fm/archives/10180, equation 17: the denominator at the
    points of the kernel.
    """
    count = system.length or length
    if count is None or count < 1:
        raise ValueError(
            f"length: expected at least 1, the system has none of its own, got {length}"
        )
    a = np.asarray(system.denominator, np.float64)
    a = np.concatenate(
        [np.ones_like(a[:, :1]), a * system.radius ** np.arange(1, a.shape[1] + 1)], 1
    )
    size = np.abs(np.fft.rfft(_fold(a, count), count)) / np.abs(a).sum(axis=1, keepdims=True)
    return size.min(axis=1), size.argmin(axis=1)


def _fold(a: np.ndarray, count: int) -> np.ndarray:
    """Coefficients of equal powers on that many points, summed."""
    padded = np.pad(a, [(0, 0), (0, -a.shape[1] % count)])
    return padded.reshape(len(a), -1, count).sum(axis=1)


def poles(system: System) -> np.ndarray:
    """Roots of the denominators, complex [G, N], on the host in double precision.

    Source: https://kexue.fm/archives/10180, equations 19 and 20.
    """
    a = np.asarray(system.denominator, np.float64)
    companion = np.zeros((*a.shape, a.shape[1]))
    companion[:, 0] = -a
    companion[:, 1:, :-1] = np.eye(a.shape[1] - 1)
    return np.linalg.eigvals(companion).astype(complex)


def stable(denominator: np.ndarray) -> np.ndarray:
    """Whether all roots of 1, a_1..a_N lie within the unit circle, for rows [G, N]: booleans [G].

    In O(N^2), without computing the roots, which are ill-conditioned where many nearly coincide.

    Source: the step-down recursion of Schur and Cohn; Kailath, "Linear Systems" (1980).
    """
    a = np.asarray(denominator, np.float64)
    inside = np.ones(len(a), bool)
    with np.errstate(all="ignore"):
        while a.shape[1]:
            last = a[:, -1:]
            inside &= np.abs(last[:, 0]) < 1
            a = (a[:, :-1] - last * a[:, -2::-1]) / (1.0 - last**2)
    return inside


def check_stable(system: System) -> None:
    """Refuse poles on the unit circle or outside of it, unless traced (see `stable`).

    Raises:
        ValueError: naming the first such row, its largest pole and what to do.

    Source: the step-down recursion of Schur and Cohn; Kailath, "Linear Systems" (1980).
    """
    known = signals.concrete(system.denominator)
    if known is None:
        return
    inside = stable(known)
    if not inside.all():
        row = int(np.argmin(inside))
        one = dataclasses.replace(system, denominator=system.denominator[row : row + 1])
        raise ValueError(
            f"denominator: row {row} has a pole of modulus {np.abs(poles(one)).max():.6g}, on or "
            "outside the unit circle: its recurrence does not decay. Train with constraint='l1', "
            "pull the poles in with `rtf.damped_params` (of a system `rtf.damped`), or read whole "
            "signals with `apply`"
        )


def damped(system: System, factor: float) -> System:
    """The system whose exact kernel is multiplied by factor^l, its poles by factor.

    Raises:
        ValueError: a truncated system, whose numerator is b~.

    Source: derived from https://kexue.fm/archives/10180, equation 8, at z times the factor.
    """
    if system.length is not None:
        raise ValueError("system: expected exact coefficients, see `exact`")
    weights = rational.scale(factor, system.numerator.shape[1], system.numerator.dtype, 1)
    shift = 1.0 if system.delay else factor
    return dataclasses.replace(
        system,
        numerator=system.numerator * weights / shift,
        denominator=system.denominator * weights,
    )


class Aliasing(NamedTuple):
    """Time aliasing of kernels that are computed from L frequencies, each [H].

    Attributes:
        margin: least modulus of the denominator at the L points over the sum of the moduli of its
            coefficients; near 0 a pole lies next to the point, and digits are lost.
        bin: FFT bin of that point, 0..L/2.
        wrap: r^L K_L, which wraps around to K_0; 0 with a delay of 0.
        folded: largest |r^L K_{l+L} + r^2L K_{l+2L} + ...| over l, which the numerator b of the
            infinite response would add, relative to the largest |K_l|; infinite for poles on or
            outside the circle |z| = 1/r.
    """

    margin: np.ndarray
    bin: np.ndarray
    wrap: np.ndarray
    folded: np.ndarray


def aliasing(system: System, length: int | None = None) -> Aliasing:
    """Measure the time aliasing of the kernels of a system, on the host.

    Args:
        length: L, for a system that stores none.

    Raises:
        ValueError: a length other than the stored one, or not above the order N.

    Source: derived from https://kexue.fm/archives/10180, equations 15 and 16: what is left of
    the infinite response at L points.
    """
    if system.length is not None and length not in (None, system.length):
        raise ValueError(f"length: the system has its own, {system.length}, got {length}")
    margin, where = spectral_margin(system, length)
    count, r = system.length or length, system.radius
    assert count is not None
    if count <= system.numerator.shape[1]:
        raise ValueError(f"length: expected more than {system.numerator.shape[1]}, got {count}")
    plain = exact(system)
    b, a = (np.asarray(part, np.float64) for part in (plain.numerator, plain.denominator))
    repeat, size = len(b) // len(a), b.shape[1]
    a = np.repeat(a, repeat, axis=0)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), plain)
        values = np.asarray(kernel(wide, count + 1))
        scaled = jnp.asarray(b * r ** np.arange(size)), jnp.asarray(a * r ** np.arange(1, size + 1))
        folded = np.array(rational.periodic(*scaled, count)) / r ** np.arange(count)  # l = 1..L
    largest = np.abs(values[:, :-1]).max(axis=1)
    rest = folded - values[:, 1:]
    if not system.delay:  # K_L, K_2L, ... land on l = 0, which is part of the period
        rest[:, -1] = r**count * folded[:, -1]
    folded = np.abs(rest).max(axis=1) / np.where(largest > 0, largest, 1.0)
    outside = np.repeat(r * np.abs(poles(system)).max(axis=1) >= 1, repeat)
    wrap = r**count * values[:, -1] * system.delay
    folded = np.where(outside, np.inf, folded)
    return Aliasing(np.repeat(margin, repeat), np.repeat(where, repeat), wrap, folded)
