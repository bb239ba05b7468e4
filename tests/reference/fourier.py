"""Fourier basis densities in float64 NumPy, from the coefficient sums of the paper.

Notation
    a      coefficients a_0..a_N
    gamma  E[exp(-i pi n X)], n = 0..N, of p(x) = 1/2 + sum_{n>=1} Re(gamma_n e^{i pi n x})

Source: arXiv 2402.15345, section 2; the sums are written out as loops, and integrals are
taken by quadrature, so that nothing is shared with the code under test.
"""

import mpmath
import numpy as np
import scipy.integrate
import scipy.stats

# Mean and scale of each component.
TUT10 = (
    (0.01515017356723547, 0.052398961037397385),
    (-0.2419874221086502, 0.04704193025827408),
    (-0.34520500898361206, 0.044891562312841415),
    (0.20919467508792877, 0.05644155666232109),
    (0.17366820573806763, 0.055701419711112976),
    (-0.34645596146583557, 0.044865500181913376),
    (-0.22389526665210724, 0.047418851405382156),
    (-0.2980934977531433, 0.04587305337190628),
    (0.005521114449948072, 0.05219835788011551),
    (0.023814208805561066, 0.05257946252822876),
)


def random_coefficients(seed, order, batch=()):
    """Complex normal a of shape [*batch, order + 1]."""
    rng = np.random.default_rng(seed)
    shape = (*batch, order + 1)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def autocorrelation(a):
    """c_n = sum_{k=0}^{N-n} a_{k+n} conj(a_k), n = 0..N."""
    c = np.zeros(len(a), complex)
    for n in range(len(a)):
        for k in range(len(a) - n):
            c[n] += a[k + n] * np.conj(a[k])
    return c


def gamma(a, floor=0.0):
    """Circular moments: c_n / c_0, times (1 - floor) for n >= 1 under a uniform component."""
    c = autocorrelation(np.asarray(a, complex))
    return np.concatenate([[1.0], (1.0 - floor) * c[1:] / c[0].real])


def density(a, x, floor=0.0):
    """p(x) = 1/2 + sum_n Re(gamma_n exp(i pi n x))."""
    g = gamma(a, floor)
    total = 0.5 * np.ones(np.shape(x))
    for n in range(1, len(g)):
        total = total + (g[n] * np.exp(1j * np.pi * n * np.asarray(x))).real
    return total


def density_slope(a, x, floor=0.0):
    """p'(x), term by term."""
    g = gamma(a, floor)
    total = np.zeros(np.shape(x))
    for n in range(1, len(g)):
        total = total + (1j * np.pi * n * g[n] * np.exp(1j * np.pi * n * np.asarray(x))).real
    return total


def cdf(a, x, floor=0.0):
    """P(X <= x) by adaptive quadrature of the density from -1."""
    end = min(max(x, -1.0), 1.0)
    options = {"epsabs": 1e-13, "epsrel": 1e-13, "limit": 200}
    return scipy.integrate.quad(lambda t: density(a, t, floor), -1.0, end, **options)[0]


def cdf_mpmath(a, x, floor=0.0):
    """P(X <= x) by Gauss-Legendre quadrature in 30 digits."""
    with mpmath.workdps(30):
        terms = [mpmath.mpc(value) for value in gamma(a, floor)]

        def p(t):
            waves = (g * mpmath.expjpi(n * t) for n, g in enumerate(terms[1:], start=1))
            return mpmath.mpf(1) / 2 + mpmath.re(sum(waves))

        return float(mpmath.quad(p, mpmath.linspace(-1, mpmath.mpf(x), 5)))


def expectation(function, a, floor=0.0, nodes=200):
    """E[function(X)] by Gauss-Legendre quadrature, exact to rounding for low orders."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return np.sum(w * function(x) * density(a, x, floor))


def roughness(a, floor=0.0, nodes=200):
    """Integral of p'(x)^2 over the circle by Gauss-Legendre quadrature."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return np.sum(w * density_slope(a, x, floor) ** 2)


def tut10(x):
    """Ten equal Gaussians on [-1, 1]; the mass outside is below 1e-36."""
    return sum(0.1 * scipy.stats.norm.pdf(x, mean, scale) for mean, scale in TUT10)


def square(x):
    """0.9 U(-0.5, 0.3) + 0.1 U(-1, 1)."""
    return 0.05 + np.where((x >= -0.5) & (x < 0.3), 0.9 / 0.8, 0.0)


def nodes(count):
    """The points x_j = -1 + 2 j / M of the circle."""
    return -1.0 + 2.0 * np.arange(count) / count


def divergence(target, a, count=2**15):
    """KL(target || density of a) in nats, by the trapezoidal rule on the circle."""
    x = nodes(count)
    p, q = target(x), density(a, x)
    used = p > 1e-30  # the remainder contributes less than 1e-27
    return 2.0 / count * np.sum(p[used] * np.log(p[used] / q[used]))


def log_likelihood(w, x, a):
    """sum_j w_j log p(x_j) with |A(x)|^2 summed directly."""
    value = sum(c * np.exp(1j * np.pi * k * x) for k, c in enumerate(a))
    return np.sum(w * np.log(np.abs(value) ** 2 / (2.0 * np.sum(np.abs(a) ** 2))))


def tomography(w, x, order, iterations):
    """Maximum likelihood over p(x) = v^* rho v / 2 by the R rho R iteration of Hradil.

    rho is a density matrix (positive, trace one), v_k = exp(-i pi k x); its likelihood
    never decreases. Returns the log-likelihood reached.
    """
    v = np.exp(-1j * np.pi * np.outer(x, np.arange(order + 1)))
    rho = np.eye(order + 1) / (order + 1)
    for _ in range(iterations):
        power = np.einsum("jk,kl,jl->j", v.conj(), rho, v).real
        r = np.einsum("j,jk,jl->kl", w / power, v, v.conj())
        rho = r @ rho @ r
        rho = rho / np.trace(rho).real
    power = np.einsum("jk,kl,jl->j", v.conj(), rho, v).real
    return np.sum(w * np.log(0.5 * power))


def minimum_phase(a, digits=60):
    """(log b_0, roots) of the factor of |A|^2 without roots inside the disc, as mpmath numbers.

    Every root r of A inside the disc is replaced by 1 / conj(r); |A|^2 = |a_N|^2 prod |z - r|^2
    fixes the leading coefficient. Leading zeros of a are not allowed.
    """
    with mpmath.workdps(digits):
        a = [mpmath.mpc(value) for value in a]
        roots = mpmath.polyroots(a[::-1], maxsteps=500, extraprec=400) if len(a) > 1 else []
        log_constant = mpmath.log(abs(a[-1]))
        outside = []
        for root in roots:
            size = abs(root)
            # |z - r|^2 = |r|^2 |1 - z / r|^2 outside; |1 - conj(r) z|^2 inside
            log_constant += mpmath.log(size) if size > 1 else 0
            outside.append(root if size >= 1 else 1 / mpmath.conj(root))
        return log_constant, outside


def cepstrum(a, count):
    """kappa_1..kappa_count of |A|^2: -sum_r r^{-m} / m over the reflected roots."""
    with mpmath.workdps(60):
        _, roots = minimum_phase(a)
        return np.array([complex(-sum(r ** (-m) for r in roots) / m) for m in range(1, count + 1)])


def entropy(a, floor=0.0, nodes=4000):
    """-integral of p log p by Gauss-Legendre quadrature."""
    return expected_log(a, a, floor, floor, nodes) * -1.0


def expected_log(a, other, floor=0.0, other_floor=0.0, nodes=4000):
    """Integral of p log p' by Gauss-Legendre quadrature on 16 panels."""
    x, w = np.polynomial.legendre.leggauss(nodes // 16)
    total = 0.0
    for panel in range(16):
        points = -1.0 + (panel + 0.5 * (x + 1.0)) / 8.0
        p, q = density(a, points, floor), density(other, points, other_floor)
        used = p > 0
        total += np.sum((w / 16.0 * p)[used] * np.log(q[used]))
    return total


def interval(a, lower, upper, floor=0.0):
    """Probability of [lower, upper] term by term in 60 digits, which survive the cancellation."""
    with mpmath.workdps(60):
        terms = [mpmath.mpc(value) for value in a]
        total = sum(abs(t) ** 2 for t in terms)
        lower, upper = mpmath.mpf(float(lower)), mpmath.mpf(float(upper))
        mass = mpmath.mpf(0)
        for n in range(1, len(terms)):
            c = sum(terms[k + n] * mpmath.conj(terms[k]) for k in range(len(terms) - n))
            wave = mpmath.expjpi(n * upper) - mpmath.expjpi(n * lower)
            mass += mpmath.re(c / total * wave / (1j * n * mpmath.pi))
        return (upper - lower) / 2 + (1 - mpmath.mpf(floor)) * mass
