"""Maximum likelihood on the circle, on the host in float64, with an optimality certificate.

Notation
    w_j, x_j  weights (summing to 1) and points of the data
    M         nodes of the grid x_j = -1 + 2 j / M
    eps       the floor: weight of the uniform component
    q_j       2 p(x_j) = (1 - eps) |A(x_j)|^2 / |a|^2 + eps

The log-likelihood is concave in the autocorrelation c of a, so a stationary point can be
certified, by `certificate.bound`.

Source: https://kexue.fm/archives/10007, equations 2 and 14.
"""

import contextlib
import functools
import threading
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import threadpoolctl

from fourier_density.certificate import TINY, bound, polynomial

MAX_NODES = 2**15
OPTIONS = {"maxcor": 30, "gtol": 1e-9}  # of L-BFGS-B
ROUNDING = 1e-15  # relative changes of a loss, in nats per sample, that mean nothing


class Maximum(NamedTuple):
    """A fit on the circle: |a| = 1, mean loss in nats, bound on its excess, iterations."""

    a: np.ndarray
    nll: float
    certificate: float
    iterations: int


def maximise(
    x: np.ndarray,
    w: np.ndarray,
    order: int,
    *,
    floor: float = 0.0,
    even: bool = False,
    max_iterations: int = 1000,
) -> Maximum:
    """Fit to points [n] of [-1, 1] with weights [n].

    The points are binned linearly for the optimisation; loss and certificate are evaluated on
    the points themselves.

    Args:
        even: among the densities with p(x) = p(-x), for which a is real. The loss is then that
            of the points together with their mirror images.
    """
    grid = bin_linearly(x, w, _nodes(order))
    a, iterations = maximise_on_grid(grid, order, floor, even, max_iterations)
    return assess(a, iterations, x, w, floor, even)


class _OneThread:
    """A context that any number of threads may be in: the limit is one of the process."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit.enter_context(_threads().limit(limits=1, user_api="blas"))
            self._inside += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.close()


@functools.cache
def _threads() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


ON_ONE_THREAD = _OneThread()  # BLAS, whose matrices are tiny here: waking threads costs more


def assess(
    a: np.ndarray, iterations: int, x: np.ndarray, w: np.ndarray, floor: float, even: bool = False
) -> Maximum:
    """Loss and certificate of coefficients with |a| = 1.

    Source: derived from https://kexue.fm/archives/10007, equations 2 and 14, by Jensen's
    inequality.
    """
    power = np.abs(polynomial(a, x)) ** 2
    q = (1.0 - floor) * power + floor
    with np.errstate(divide="ignore"):
        nll = float(-np.sum(w * np.log(0.5 * q)))
    return Maximum(a, nll, bound(x, w, q, len(a) - 1, floor, even), iterations)


def bin_linearly(x: np.ndarray, w: np.ndarray, nodes: int) -> np.ndarray:
    """Masses on the grid: each point is shared by its two neighbouring nodes."""
    position = (x + 1.0) * (0.5 * nodes)
    left = np.floor(position).astype(int)
    share = position - left
    left_mass = np.bincount(left % nodes, w * (1.0 - share), nodes)
    return left_mass + np.bincount((left + 1) % nodes, w * share, nodes)


def maximise_on_grid(
    w: np.ndarray, order: int, floor: float, even: bool, max_iterations: int
) -> tuple[np.ndarray, int]:
    """Maximum of sum_j w_j log q_j for masses w [M]: on a coarse grid, then on all nodes.

    L-BFGS comes near, Newton's method finishes; where it does not (the loss is flat along roots
    of A on the circle), L-BFGS goes on, and Newton's method takes the gradient it leaves to zero.
    """
    if even:
        w = 0.5 * (w + np.roll(w[::-1], 1))
    sign = (-1.0) ** np.arange(order + 1)  # the grid starts at x = -1
    # p = 1/2 + sum_n Re(gamma_n z^n) with gamma_n = E[exp(-i pi n X)]
    moments = sign * np.fft.fft(w)[: order + 1]
    taper = 1.0 - np.arange(order + 1) / (order + 1.0)
    a = minimum_phase(moments * taper, max(1024, 32 * (order + 1)))
    coarse = _coarsened(w, 16 * (order + 1))
    a, iterations = _descend(coarse, a, floor, even, 1e-6, max_iterations)
    if iterations < max_iterations:
        a, on_coarse, _ = newton(coarse, a, floor, even)
        a, on_all, converged = newton(w, a, floor, even)
        iterations += on_coarse + on_all
        if not converged and iterations < max_iterations:
            a, more = _descend(w, a, floor, even, ROUNDING, max_iterations - iterations)
            a, last, _ = newton(w, a, floor, even)
            iterations += more + last
    return a, iterations


def _coarsened(w: np.ndarray, least: int) -> np.ndarray:
    """Masses shared linearly by every second node, while at least `least` are left."""
    while w.size % 2 == 0 and w.size >= 2 * least:
        odd = 0.5 * w[1::2]
        w = w[::2] + odd + np.roll(odd, 1)
    return w


def _descend(
    w: np.ndarray, a: np.ndarray, floor: float, even: bool, change: float, max_iterations: int
) -> tuple[np.ndarray, int]:
    """L-BFGS on -sum_j w_j log q_j from a, until a step changes it by less than that share."""
    nodes, order = w.size, a.size - 1
    sign = (-1.0) ** np.arange(order + 1)
    used = np.flatnonzero(w)
    positive = w[used]

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        a = join(parts, even)
        values = np.fft.ifft(sign * a, nodes) * nodes
        loss, ratio, along = losses(values[used], np.sum(np.abs(a) ** 2), positive, floor)
        spectrum = np.zeros(nodes, complex)
        spectrum[used] = ratio
        return loss, split(along * a - sign * np.fft.fft(spectrum)[: order + 1], even)

    options = {**OPTIONS, "ftol": change, "maxiter": max_iterations}
    result = scipy.optimize.minimize(
        objective, split(a, even), jac=True, method="L-BFGS-B", options=options
    )
    a = join(result.x, even)
    return a / np.linalg.norm(a), int(result.nit)


def losses(
    values: np.ndarray, total: float, w: np.ndarray, floor: float
) -> tuple[float, np.ndarray, float]:
    """-sum_j w_j log q_j and the parts of its gradient.

    Args:
        values: A(x_j).
        total: |a|^2.

    Returns:
        Loss, r_j and s such that the gradient by (Re a_k, Im a_k) is the real and imaginary
        part of s a_k - sum_j r_j conj(z_j^k).

    Source: https://kexue.fm/archives/10007, equation 2: minus the mean of log 2 p.
    """
    power = np.abs(values) ** 2
    q = np.maximum((1.0 - floor) / total * power + floor, TINY)
    ratio = 2.0 * (1.0 - floor) / total * w / q
    return float(-np.sum(w * np.log(q))), ratio * values, float(np.sum(ratio * power) / total)


def newton(
    w: np.ndarray, a: np.ndarray, floor: float, even: bool, max_steps: int = 8
) -> tuple[np.ndarray, int, bool]:
    """Newton's method with Levenberg's damping on the loss of `losses`, |a| = 1 throughout.

    Returns:
        Coefficients, steps, and whether the last step promised less than 1e-12 nats. At a root
        on a data point the Hessian overflows, and there is no step.

    Source: Newton's method with Levenberg's damping.
    """
    loss, gradient, hessian = derivatives(w, a, floor, even)
    damping = 0.0
    for step in range(max_steps):
        # Scale and phase of a leave the loss unchanged: hold them.
        held = [split(a, even)] if even else [split(a, even), split(1j * a, even)]
        matrix = hessian + sum(np.outer(v, v) for v in held)
        if not np.all(np.isfinite(matrix)):
            return a, step, False
        while True:
            try:
                shifted = matrix + damping * np.eye(gradient.size)
                factor = scipy.linalg.cho_factor(shifted, check_finite=False)
                break
            except np.linalg.LinAlgError:
                damping = max(4.0 * damping, 1e-3)
        change = -scipy.linalg.cho_solve(factor, gradient, check_finite=False)
        promised = -float(gradient @ change + 0.5 * change @ matrix @ change)
        trial = a + join(change, even)
        trial /= np.linalg.norm(trial)
        if promised < 1e-12:
            return trial, step + 1, True
        new = derivatives(w, trial, floor, even)
        if new[0] < loss:
            a, (loss, gradient, hessian) = trial, new
            damping *= 0.25
        else:
            damping = max(4.0 * damping, 1e-3)
    return a, max_steps, False


def derivatives(
    w: np.ndarray, a: np.ndarray, floor: float, even: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss on the grid, gradient and Hessian by the parts of `split`, at |a| = 1.

    With s = 1 - eps, P = |A|^2, r = w / q and d = (change of a), D = (change of A),
    e = 2 Re <a, d> the change of |a|^2, the second-order terms of the loss are half of

        sum_j 2 s^2 r/q Re(conj(A)^2 D^2) + 2 (s^2 r P/q - s r) |D|^2      Hankel and Toeplitz
        + 4 e Re <g - h, d> + e^2 (sum_j s^2 r P^2/q - 2 S) + 2 S |d|^2

    with g_k = sum_j s r A conj(z^k), h_k the same of s^2 r P A/q, and S = sum_j s r P.

    Source: derived from https://kexue.fm/archives/10007, equations 2 and 14.
    """
    nodes, order = w.size, a.size - 1
    sign = (-1.0) ** np.arange(2 * order + 1)
    values = np.fft.ifft(sign[: order + 1] * a, nodes) * nodes
    power = np.abs(values) ** 2
    q = np.maximum((1.0 - floor) * power + floor, TINY)
    used = w > 0
    loss = float(-np.sum(w[used] * np.log(q[used])))
    ratio = (1.0 - floor) * w / q
    curved = (1.0 - floor) * ratio / q

    def sums(v: Any) -> Any:
        """sum_j v_j conj(z_j^n) for n = 0..2N."""
        transform = np.fft.fft if np.iscomplexobj(v) else np.fft.rfft
        return sign * transform(v)[: 2 * order + 1]

    k = np.arange(order + 1)
    hankel: Any = np.conj(sums(2.0 * curved * values**2))[k[:, None] + k]
    toeplitz: Any = scipy.linalg.toeplitz(sums(2.0 * (curved * power - ratio))[: order + 1])
    g = sums(ratio * values)[: order + 1]
    h = sums(curved * power * values)[: order + 1]
    total = float(np.sum(ratio * power))
    along, cross = split(a, even), split(g - h, even)
    if even:
        hessian = hankel.real + toeplitz.real
    else:
        hessian = np.block(
            [
                [hankel.real + toeplitz.real, -hankel.imag - toeplitz.imag],
                [-hankel.imag + toeplitz.imag, toeplitz.real - hankel.real],
            ]
        )
    mixed = np.outer(along, cross)
    own = 4.0 * (float(np.sum(curved * power**2)) - 2.0 * total)
    hessian += 4.0 * (mixed + mixed.T) + own * np.outer(along, along)
    hessian[np.diag_indices_from(hessian)] += 2.0 * total
    return loss, split(2.0 * (total * a - g), even), hessian


def minimum_phase(c: np.ndarray, nodes: int) -> np.ndarray:
    """Minimum-phase a with autocorrelation c (Fejer-Riesz), by Kolmogorov's cepstral method.

    Good enough for a start; `factorisation.spectral_factor` is exact.

    Args:
        c: complex [N+1], N >= 1, with a positive sum c_0 + 2 Re sum_n c_n z^n.
        nodes: FFT length; the error decays like (largest root modulus inside the disc)^nodes.

    Source: Kolmogorov's cepstral method for the factor of Fejer and Riesz.
    """
    spectrum = np.zeros(nodes, complex)
    spectrum[: c.size] = c
    spectrum[-(c.size - 1) :] += np.conj(c[:0:-1])
    values = (np.fft.ifft(spectrum) * nodes).real
    cepstrum = np.fft.fft(np.log(np.maximum(values, 1e-12 * values.max()))) / nodes
    causal = np.zeros(nodes, complex)
    causal[0] = 0.5 * cepstrum[0]
    causal[1 : nodes // 2] = cepstrum[1 : nodes // 2]
    factor = np.exp(np.fft.ifft(causal) * nodes)
    return (np.fft.fft(factor) / nodes)[: c.size]


def _nodes(order: int) -> int:
    """Binning changes moments by (pi n / M)^2 / 3: the certificate shows about 1e-6 of that."""
    return min(MAX_NODES, 256 * 2 ** order.bit_length())


def join(parts: np.ndarray, even: bool) -> np.ndarray:
    """Coefficients from the optimiser's real vector; those of even densities are real."""
    if even:
        return parts.astype(complex)
    half = parts.size // 2
    return parts[:half] + 1j * parts[half:]


def split(a: np.ndarray, even: bool) -> np.ndarray:
    """The inverse of `join`."""
    return np.real(a).copy() if even else np.concatenate([np.real(a), np.imag(a)])
