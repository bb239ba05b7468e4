"""Fourier basis densities on the real line in 400-digit arithmetic, and the bases themselves.

q(y) = 2 p(2 B(u) - 1) b(u) / scale, u = (y - loc) / scale, with p from its coefficients. The
distribution function is p's own, a finite trigonometric sum, at v = 2 B(u) - 1; the digits
make its cancellations harmless.
"""

import mpmath
import numpy as np

DIGITS = 400  # the normal distribution at 40 scales is 1e-350


def base(name):
    """(pdf, cdf) in mpmath."""
    mp = mpmath
    bases = {
        "tanh": (lambda u: mp.sech(u) ** 2 / 2, lambda u: 1 / (1 + mp.exp(-2 * u))),
        "normal": (mp.npdf, mp.ncdf),
        "laplace": (
            lambda u: mp.exp(-abs(u)) / 2,
            lambda u: mp.exp(u) / 2 if u < 0 else 1 - mp.exp(-u) / 2,
        ),
        "student_t": (
            lambda u: 6 * mp.sqrt(3) / (mp.pi * (3 + u**2) ** 2),
            # df = 3 has an elementary distribution function
            lambda u: (
                mp.mpf(1) / 2 + (mp.atan(u / mp.sqrt(3)) + mp.sqrt(3) * u / (3 + u**2)) / mp.pi
            ),
        ),
        "mixture": (
            lambda u: mp.mpf(1) / 4 * mp.npdf(u, -2, mp.mpf(1) / 2) + 3 * mp.npdf(u, 1, 2) / 4,
            lambda u: mp.ncdf(u, -2, mp.mpf(1) / 2) / 4 + 3 * mp.ncdf(u, 1, 2) / 4,
        ),
    }
    return bases[name]


def _circle(a, floor):
    terms = [mpmath.mpc(value) for value in a]
    total = sum(abs(t) ** 2 for t in terms)
    keep = 1 - mpmath.mpf(floor)
    gamma = [
        keep * sum(terms[k + n] * mpmath.conj(terms[k]) for k in range(len(terms) - n)) / total
        for n in range(1, len(terms))
    ]

    def density(v):
        waves = (g * mpmath.expjpi(n * v) for n, g in enumerate(gamma, start=1))
        return mpmath.mpf(1) / 2 + mpmath.re(mpmath.fsum(waves))

    def cdf(v):
        waves = (
            g * (mpmath.expjpi(n * v) - (-1) ** n) / (1j * n * mpmath.pi)
            for n, g in enumerate(gamma, start=1)
        )
        return (v + 1) / 2 + mpmath.re(mpmath.fsum(waves))

    return density, cdf


def log_prob(a, y, loc=0.0, scale=1.0, name="tanh", floor=0.0):
    """Log q(y) at every y, as float64."""
    with mpmath.workdps(DIGITS):
        density, _ = _circle(a, floor)
        pdf, cdf = base(name)

        def value(point):
            u = (mpmath.mpf(float(point)) - mpmath.mpf(loc)) / mpmath.mpf(scale)
            return mpmath.log(2 * density(2 * cdf(u) - 1) * pdf(u) / mpmath.mpf(scale))

        return np.array([float(value(point)) for point in y])


def log_interval(a, lower, upper, loc=0.0, scale=1.0, name="tanh", floor=0.0):
    """Log P(lower <= Y <= upper) of every pair, as float64; None stands for infinity."""
    with mpmath.workdps(DIGITS):
        _, distribution = _circle(a, floor)
        _, cdf = base(name)

        def level(point):
            if point is None:
                return None
            u = (mpmath.mpf(float(point)) - mpmath.mpf(loc)) / mpmath.mpf(scale)
            return distribution(2 * cdf(u) - 1)

        def value(start, end):
            start, end = level(start), level(end)
            start = mpmath.mpf(0) if start is None else start
            end = mpmath.mpf(1) if end is None else end
            return mpmath.log(end - start)

        pairs = zip(lower, upper, strict=True)
        return np.array([float(value(start, end)) for start, end in pairs])
