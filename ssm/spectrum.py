"""The generating function of a normal-plus-low-rank kernel on the unit circle.

Notation
    N, R, L    modes, rank of the correction, length of the kernel
    s, c       sin and cos of theta/2 at the frequencies theta_j = 2 pi j / L, j = 0..L/2
    w          dt Lambda / 2
    d          i s - c w, of a mode at a frequency
    k_XY       sum_n X_n Y_n / d_n for X of (C, P_1^*, .., P_R^*), Y of (B, P_1, .., P_R)

With z = exp(-i theta), z^L = 1 and C~ = C (1 - a^L) the sum over l < L of K_l z^l is

    exp(i theta/2) (dt/2) C~ [diag(d) + c (dt/2) P P^*]^-1 B

and the inverse follows from the sums k by Woodbury's identity, here one rank at a time: the
update for rank r takes k_Xr k_rY weight/(1 + weight k_rr) from every k_XY that is left.

Where a pole lies next to the circle and only P P^* damps it, as in LegT and FouT, the terms of
that subtraction are much larger than the difference: in single precision kernels of 16384 steps
lose all but two digits. The pole nearest to each frequency is then moved away, d + tau in place
of d, and the move taken back as one more rank, e_n e_n^* of weight -tau.

Source: S4 (arXiv 2111.00396), appendix C; the move is ours. https://kexue.fm/archives/10162.
"""

import jax.numpy as jnp
from jaxtyping import Array

from ssm import cauchy
from ssm.dplr import System, all_modes, as_complex, dense, share
from ssm.vandermonde import Pair, divide, times

Sums = dict[tuple[int, int], Pair]  # k_XY, 0 for C and B


def spectrum(system: System, length: int) -> Array:
    """The sums at the frequencies of a real transform, [H, L/2 + 1].

    Args:
        system: with C~ for this length in the place of C.

    Source: arXiv 2111.00396, algorithm 1, lines 2 to 4; https://kexue.fm/archives/10162, equations
    36 to 38, written without a pole at z = -1.
    """
    dt = system.dt[:, None]
    w = (0.5 * dt * system.Lambda[0], 0.5 * dt * system.Lambda[1])
    P, B, C = (as_complex(part) for part in (system.P, system.B, system.C))
    left = jnp.concatenate([C[:, None], P.conj()], axis=1)
    right = jnp.concatenate([B[:, None], P], axis=1)
    rows = (left[:, :, None] * right[:, None]).reshape(len(B), -1, B.shape[-1])
    apart = None
    if system.conjugate:
        rows = 0.5 * share(system) * rows  # a real mode counts once, not as a pair
        if system.undamped:
            numbers = [left.real, left.imag, right.real, right.imag, *(p[:, None] for p in w)]
            single = jnp.broadcast_to(2.0 - share(system), (len(B), 1, B.shape[-1]))
            apart = jnp.concatenate([*numbers, single], axis=1)
    else:
        # With v and with -i v: the sums over the modes alone and over their conjugates alone.
        rows = jnp.concatenate([rows, -1j * rows], axis=1)

    def combine(parts: Pair, angles: Pair, found: Array | None = None) -> Array:
        s, c = angles
        weight = 0.5 * dt * c
        weights = [weight] * system.rank
        if found is not None:
            inner = _with_nearest(_table(parts), weights, angles, found)
        elif system.conjugate:
            inner = _update(_table(parts), weights)
        else:
            plain, turned = jnp.split(as_complex(parts), 2, axis=1)
            both = [0.5 * (plain + sign * 1j * turned) for sign in (1.0, -1.0)]
            alone = [_update(_table((p.real, p.imag)), weights) for p in both]
            inner = (0.5 * (alone[0][0] + alone[1][0]), 0.5 * (alone[0][1] + alone[1][1]))
        # One complex output: two real ones would be computed twice.
        return as_complex(times((weight, 0.5 * dt * s), inner))

    value = cauchy.conjugate_sums((rows.real, rows.imag), w, length, then=combine, apart=apart)
    if system.still and apart is None:
        value = value.at[:, 0].set(_at_rest(system))
    return value


def _table(sums: Pair) -> Sums:
    count = round(sums[0].shape[1] ** 0.5)
    index = [(i, j) for i in range(count) for j in range(count)]
    return {(i, j): (sums[0][:, i * count + j], sums[1][:, i * count + j]) for i, j in index}


def _update(k: Sums, weights: list[Array]) -> Pair:
    """k_CB after all ranks, 1.. with their weights; in real arithmetic, complex division is slow.

    The matrix stays dissipative from rank to rank: 1 + weight k_rr does not vanish.
    """
    for r, weight in enumerate(weights, start=1):
        left = [0, *range(r + 1, len(weights) + 1)]
        pivot = (1.0 + weight * k[r, r][0], weight * k[r, r][1])
        for j in left:
            taken = divide((weight * k[r, j][0], weight * k[r, j][1]), pivot)
            for i in left:
                fix = times(k[i, r], taken)
                k[i, j] = (k[i, j][0] - fix[0], k[i, j][1] - fix[1])
    return k[0, 0]


def _with_nearest(k: Sums, weights: list[Array], angles: Pair, found: Array) -> Pair:
    """As `_update`, for sums without the pair of poles that is nearest to each frequency.

    Args:
        found: that pair's numbers [H, .., J]: real and imaginary parts of its left and right
            factors, of w, and whether it is one real pole.
    """
    s, c = angles
    last = len(weights) + 1
    *factors, rest = jnp.split(found, [last, 2 * last, 3 * last, 4 * last], axis=1)
    w_re, w_im, single = rest[:, 0], rest[:, 1], rest[:, 2]
    flip = jnp.where(w_im < 0, -1.0, 1.0)  # the nearer one is above the axis
    left, right = (
        [(re[:, i], flip * im[:, i]) for i in range(last)] for re, im in (factors[:2], factors[2:4])
    )
    far = _inverse((-c * w_re, s + c * flip * w_im))
    far = ((1.0 - single) * far[0], (1.0 - single) * far[1])
    tau = jnp.zeros_like(s)
    for weight, (re, im) in zip(weights, right[1:], strict=True):
        tau = tau + weight * (re**2 + im**2)
    near = _inverse((tau - c * w_re, s - c * flip * w_im))
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            product = times(x, y)
            upper = times(product, near)
            lower = times((product[0], -product[1]), far)
            k[i, j] = (k[i, j][0] + upper[0] + lower[0], k[i, j][1] + upper[1] + lower[1])
        k[i, last] = times(x, near)
    for j, y in enumerate(right):
        k[last, j] = times(y, near)
    k[last, last] = near
    return _update(k, [*weights, -tau])


def _inverse(x: Pair) -> Pair:
    """1/x; 0 where x is, a pole at the frequency itself that nothing damps."""
    size = x[0] ** 2 + x[1] ** 2
    zero = size == 0
    size = jnp.where(zero, 1.0, size)
    return jnp.where(zero, 0.0, x[0]) / size, jnp.where(zero, 0.0, -x[1]) / size


def _at_rest(system: System) -> Array:
    """The spectrum at frequency zero, -Re(C~ A^-1 B) [H], by a dense solve."""
    _, _, B, C = all_modes(system)
    solved = jnp.linalg.solve(dense(system), B[..., None])[..., 0]
    return -jnp.sum(C * solved, axis=-1).real.astype(C.dtype)
