"""Maximum likelihood on the circle, on the host in float64, with an optimality certificate.

Notation
    w_j, x_j  weights (summing to 1) and points of the data
    M         nodes of the grid x_j = -1 + 2 j / M
    R         sum_j w_j v_j v_j^* / |A(x_j)|^2 with v_j = (1, z_j^*, ..) and |a| = 1

The log-likelihood is concave in the autocorrelation c of a, so a stationary point can be
certified: by Jensen's inequality no density of the same order has a training
log-likelihood more than log lambda_max(R) above the fit.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize

from fourier_density.density import PeriodicDensity

MAX_NODES = 2**15


class Fit(NamedTuple):
    """Result of a fit.

    Attributes:
        density: the fitted density.
        train_nll: mean negative log-likelihood of the data, nats.
        certificate: upper bound, in nats, on how much lower train_nll could be at this
            order. A large value means "unproven", not "bad".
        iterations: iterations of the optimiser.
    """

    density: PeriodicDensity
    train_nll: float
    certificate: float
    iterations: int


def fit(samples: Any, order: int, *, weights: Any = None, max_iterations: int = 1000) -> Fit:
    """Fit a `PeriodicDensity` to samples in [-1, 1].

    Samples are binned linearly on a fine grid; a Fejer-smoothed estimate gives the start and
    L-BFGS the maximum. `train_nll` and `certificate` are then evaluated on the samples
    themselves, without binning.

    Args:
        samples: [n] points in [-1, 1].
        order: N >= 1.
        weights: optional non-negative weights [n].
        max_iterations: bound on L-BFGS iterations.

    Raises:
        ValueError: empty or non-finite samples, samples outside [-1, 1], order < 1, weights
            of another shape, negative or with zero sum.

    >>> result = fit(np.array([-0.5, 0.1, 0.2, 0.3]), order=1)
    >>> result.certificate < 1e-4
    True
    """
    x = np.asarray(samples, np.float64)
    _check_order(order)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"samples: expected a non-empty vector, got shape {x.shape}")
    if not np.all(np.isfinite(x)):
        raise ValueError("samples: expected finite values, got NaN or infinity")
    if np.any(np.abs(x) > 1):
        raise ValueError(
            f"samples: expected values in [-1, 1], got [{x.min():.6g}, {x.max():.6g}]; "
            "rescale them, or wrap angles with fourier_density.series.wrap"
        )
    w = _normalised(weights, x.shape)
    a, iterations = _maximise(_bin(x, w, _nodes(order)), order, max_iterations)
    power = _power(a, x)
    with np.errstate(divide="ignore"):
        nll = float(-np.sum(w * np.log(0.5 * power)))
    return Fit(PeriodicDensity(a), nll, _certificate(w, power, x, order), iterations)


def fit_weights(weights: Any, order: int, *, max_iterations: int = 1000) -> Fit:
    """Fit to masses at the M nodes x_j = -1 + 2 j / M (a histogram, or a known density).

    With the exact masses of a known density this gives the population optimum: the smallest
    Kullback-Leibler divergence that order N can reach.

    Args:
        weights: [M] non-negative masses, M >= 4 (order + 1).
        order: N >= 1.
        max_iterations: bound on L-BFGS iterations.

    Raises:
        ValueError: order < 1, too few nodes, negative masses, zero sum.
    """
    _check_order(order)
    shape = np.shape(weights)
    if len(shape) != 1 or shape[0] < 4 * (order + 1):
        raise ValueError(
            f"weights: expected a vector of at least {4 * (order + 1)} nodes for order {order}, "
            f"got shape {shape}"
        )
    w = _normalised(weights, shape)
    a, iterations = _maximise(w, order, max_iterations)
    x = -1.0 + 2.0 * np.arange(w.size) / w.size
    power = _power(a, x)
    nll = float(-np.sum(w * np.log(0.5 * power)))
    return Fit(PeriodicDensity(a), nll, _certificate(w, power, x, order), iterations)


def spectral_factor(c: np.ndarray, nodes: int) -> np.ndarray:
    """Minimum-phase a with autocorrelation c (Fejer-Riesz), by Kolmogorov's cepstral method.

    Args:
        c: complex [N+1], N >= 1, with a positive sum c_0 + 2 Re sum_n c_n z^n.
        nodes: FFT length; the error decays like (largest root modulus inside the disc)^nodes.
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


def _check_order(order: int) -> None:
    if order < 1:
        raise ValueError(f"order: expected an integer >= 1, got {order}")


def _normalised(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    if weights is None:
        return np.full(shape, 1.0 / shape[0])
    w = np.asarray(weights, np.float64)
    if w.shape != shape:
        raise ValueError(f"weights: expected shape {shape} like samples, got {w.shape}")
    if not np.all(np.isfinite(w)) or np.any(w < 0) or w.sum() <= 0:
        raise ValueError("weights: expected finite, non-negative values with a positive sum")
    return w / w.sum()


def _nodes(order: int) -> int:
    return int(min(MAX_NODES, 2 ** np.ceil(np.log2(1024 * (order + 1)))))


def _bin(x: np.ndarray, w: np.ndarray, nodes: int) -> np.ndarray:
    """Linear binning on the circle: each point is shared by its two neighbouring nodes."""
    position = (x + 1.0) * (0.5 * nodes)
    left = np.floor(position).astype(int)
    share = position - left
    left_mass = np.bincount(left % nodes, w * (1.0 - share), nodes)
    return left_mass + np.bincount((left + 1) % nodes, w * share, nodes)


def _maximise(w: np.ndarray, order: int, max_iterations: int) -> tuple[np.ndarray, int]:
    """L-BFGS on -sum_j w_j log |A(x_j)|^2 + log |a|^2: two FFTs an evaluation."""
    nodes = w.size
    sign = (-1.0) ** np.arange(order + 1)  # the grid starts at x = -1
    used = np.flatnonzero(w)
    positive = w[used]

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        a = parts[: order + 1] + 1j * parts[order + 1 :]
        values = np.fft.ifft(sign * a, nodes) * nodes
        power = np.maximum(np.abs(values[used]) ** 2, np.finfo(float).tiny)
        total = np.sum(np.abs(a) ** 2)
        loss = -np.sum(positive * np.log(power)) + np.log(total)
        ratio = np.zeros(nodes, complex)
        ratio[used] = positive * values[used] / power
        gradient = 2.0 * (a / total - sign * np.fft.fft(ratio)[: order + 1])
        return loss, np.concatenate([gradient.real, gradient.imag])

    # p = 1/2 + sum_n Re(gamma_n z^n) with gamma_n = E[exp(-i pi n X)]
    moments = sign * np.fft.fft(w)[: order + 1]
    taper = 1.0 - np.arange(order + 1) / (order + 1.0)
    start: Any = spectral_factor(moments * taper, max(1024, 32 * (order + 1)))
    result = scipy.optimize.minimize(
        objective,
        np.concatenate([start.real, start.imag]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-9},
    )
    a = result.x[: order + 1] + 1j * result.x[order + 1 :]
    return a / np.linalg.norm(a), int(result.nit)


def _power(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """|A(x)|^2 by Horner's rule in complex128."""
    z = np.exp(1j * np.pi * x)
    value = np.zeros_like(z)
    for coefficient in a[::-1]:
        value = value * z + coefficient
    return np.abs(value) ** 2


def _certificate(w: np.ndarray, power: np.ndarray, x: np.ndarray, order: int) -> float:
    """Log lambda_max of the Toeplitz matrix R; infinity if a data point sits on a root."""
    used = w > 0
    ratio = w[used] / np.maximum(power[used], np.finfo(float).tiny)
    z = np.exp(-1j * np.pi * x[used])
    phase = np.ones_like(z)
    column = np.empty(order + 1, complex)
    for n in range(order + 1):
        column[n] = np.sum(ratio * phase)
        phase = phase * z
    if not np.all(np.isfinite(column)):
        return float("inf")
    largest = scipy.linalg.eigvalsh(scipy.linalg.toeplitz(column), subset_by_index=[order, order])[
        0
    ]
    return float(max(0.0, np.log(largest)))
