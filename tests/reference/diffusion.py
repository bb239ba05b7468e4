"""Diffusion in float64 NumPy and SciPy, written from the papers: loops, no shared code.

Notation
    lam, z  log-SNR and alpha x + sigma eps; EDM: y = x + s n, s = exp(-lam / 2)

Source: Karras et al. (arXiv 2206.00364); Song et al. (2010.02502); Ho et al. (2006.11239); Lu et
al. (2211.01095); Kingma et al. (2107.00630); Hoogeboom et al. (2301.11093).
"""

import mpmath
import numpy as np
from scipy import stats


def alpha_sigma(lam):
    """Square roots of SNR / (1 + SNR) and of 1 / (1 + SNR), with 40 digits."""
    with mpmath.workdps(40):
        snr = mpmath.exp(mpmath.mpf(float(lam)))
        return float(mpmath.sqrt(snr / (1 + snr))), float(mpmath.sqrt(1 / (1 + snr)))


def cosine(t, low=-15.0, high=15.0):
    """-2 log tan of an angle between atan exp(-high / 2) and atan exp(-low / 2)."""
    with mpmath.workdps(40):
        first = mpmath.atan(mpmath.exp(-mpmath.mpf(high) / 2))
        last = mpmath.atan(mpmath.exp(-mpmath.mpf(low) / 2))
        return float(-2 * mpmath.log(mpmath.tan(first + mpmath.mpf(float(t)) * (last - first))))


def vp_sde(t, beta_min=0.1, beta_max=20.0, start=1e-5):
    """The log-SNR of sigma(s)^2 = exp(beta_d s^2 / 2 + beta_min s) - 1."""
    with mpmath.workdps(40):
        s = mpmath.mpf(start) + mpmath.mpf(float(t)) * (1 - mpmath.mpf(start))
        exponent = mpmath.mpf(beta_max - beta_min) * s**2 / 2 + mpmath.mpf(beta_min) * s
        return float(-mpmath.log(mpmath.expm1(exponent)))


def log_normal(t, mean=-1.2, std=1.2, sigma_min=0.002, sigma_max=80.0):
    """-2 times the quantile of a truncated normal law of log sigma."""
    a, b = ((np.log(s) - mean) / std for s in (sigma_min, sigma_max))
    return -2.0 * stats.truncnorm.ppf(t, a, b, mean, std)


def betas(kind, steps):
    """Variances of a discrete forward process."""
    if kind == "linear":
        return [1e-4 + i * (0.02 - 1e-4) / (steps - 1) for i in range(steps)]
    if kind == "scaled":
        a, b = np.sqrt(0.00085), np.sqrt(0.012)
        return [(a + i * (b - a) / (steps - 1)) ** 2 for i in range(steps)]

    def bar(t):
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    return [min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)]


def table(kind, steps):
    """Log-SNR of products of 1 - beta, with 40 digits."""
    with mpmath.workdps(40):
        product, out = mpmath.mpf(1), []
        for beta in betas(kind, steps):
            product *= 1 - mpmath.mpf(float(beta))
            out.append(float(mpmath.log(product / (1 - product))))
        return np.array(out)


def parts(x, eps, lam, kind, sigma_data=0.5):
    """A kind of prediction from both parts of z, by its definition."""
    alpha, sigma = alpha_sigma(lam)
    if kind in ("x", "D"):
        return x
    if kind == "eps":
        return eps
    if kind == "v":
        return alpha * eps - sigma * x
    if kind == "score":
        return -eps / sigma
    s = sigma / alpha
    skip = sigma_data**2 / (s**2 + sigma_data**2)
    out = s * sigma_data / np.sqrt(s**2 + sigma_data**2)
    return (x - skip * (x + s * eps)) / out


def mixture_denoise(z, lam, weights, means, deviations):
    """E[x | z] by Bayes' rule, point by point."""
    alpha, sigma = alpha_sigma(lam)
    out = np.zeros_like(z)
    for i, point in enumerate(z):
        log_w, each = [], []
        for w, mu, d in zip(weights, means, deviations, strict=True):
            variance = (alpha * d) ** 2 + sigma**2
            gap = point - alpha * mu
            log_w.append(
                np.log(w) - 0.5 * gap @ gap / variance - 0.5 * len(point) * np.log(variance)
            )
            each.append(mu + alpha * d**2 / variance * gap)
        share = np.exp(np.array(log_w) - max(log_w))
        out[i] = (share / share.sum()) @ np.array(each)
    return out


def denoiser_edm(y, s, weights, means, deviations):
    """The same in EDM's coordinates."""
    lam = -2.0 * np.log(s)
    return mixture_denoise(y * alpha_sigma(lam)[0], lam, weights, means, deviations)


def edm_sigmas(steps, low=0.002, high=80.0, rho=7.0):
    """Levels of EDM, then 0."""
    out = []
    for i in range(steps):
        place = i / (steps - 1)
        out.append((high ** (1 / rho) + place * (low ** (1 / rho) - high ** (1 / rho))) ** rho)
    return np.array([*out, 0.0])


def sample_edm(denoise, y, sigmas, heun, churn=(0.0, 0.0, np.inf, 1.0), noise=None):
    """Algorithms 1 and 2 of EDM; `noise` [n, ...] is what churn adds."""
    amount, low, high, size = churn
    count, path = len(sigmas) - 1, [y]
    for i in range(count):
        s, after = sigmas[i], sigmas[i + 1]
        gamma = min(amount / count, np.sqrt(2) - 1) if low <= s <= high else 0.0
        raised = s * (1 + gamma)
        if gamma > 0:
            y = y + np.sqrt(raised**2 - s**2) * size * noise[i]
        slope = (y - denoise(y, raised)) / raised
        new = y + (after - raised) * slope
        if heun and after > 0:
            second = (new - denoise(new, after)) / after
            new = y + (after - raised) * 0.5 * (slope + second)
        y = new
        path.append(y)
    return np.array(path)


def sample(denoise, z, lams, method, variance=0.3, noise=None):
    """DDIM, ancestral and DPM-Solver++(2M) in alpha and sigma; the last update gives x."""
    path, before, last_h = [z], None, None
    for i in range(len(lams) - 1):
        x = denoise(z, lams[i])
        (a, s), (a2, s2) = alpha_sigma(lams[i]), alpha_sigma(lams[i + 1])
        if i == len(lams) - 2:
            path.append(x)
            break
        eps = (z - a * x) / s
        if method == "ddim":
            new = a2 * x + s2 * eps
        elif method == "ancestral":
            c = 1 - np.exp(lams[i] - lams[i + 1])
            mean = a2 * (z * (1 - c) / a + c * x)
            low, high = s2**2 * c, s**2 * c
            new = mean + np.sqrt(low ** (1 - variance) * high**variance) * noise[i]
        else:
            h = (lams[i + 1] - lams[i]) / 2
            guess = x
            if before is not None:
                r = last_h / h
                guess = (1 + 1 / (2 * r)) * x - 1 / (2 * r) * before
            new = s2 / s * z - a2 * (np.exp(-h) - 1) * guess
            before, last_h = x, h
        z = new
        path.append(z)
    return np.array(path)


def pool(x, m):
    """Means of cells of m along every axis of space of [B, *space, C], by loops over offsets."""
    for axis in range(1, x.ndim - 1):
        parts = [np.take(x, range(i, x.shape[axis], m), axis=axis) for i in range(m)]
        x = sum(parts) / m
    return x


def enlarge(x, m):
    """Every element m times along every axis of space."""
    for axis in range(1, x.ndim - 1):
        x = np.repeat(x, m, axis=axis)
    return x


def upsample_eps(eps, z, logsnr, m, w):
    """Upsample guidance of arXiv 2404.01709 for one log-SNR: eps(z, logsnr) is the denoiser."""
    n = m ** (z.ndim - 2)
    a, s = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    small = pool(z, m) / np.sqrt(a**2 + s**2 / n)
    tau = np.log(n * a**2 / s**2)
    whole = eps(z, logsnr)
    return whole + w * enlarge(eps(small, tau) / np.sqrt(n) - pool(whole, m), m)


def field_distances(size, m, decay, steps, ends, strength=1.0, time=True, power=True, eta=1.0):
    """Upsample guidance on a 1-D field, by matrices: W2 per element of samples and of averages.

    The law has the spectrum 1 / (1 + k^2)^decay and variance 1; the small law is that of its
    averages, whose perfect denoiser is applied to large arrays as the same kernel.
    """
    k = np.fft.fftfreq(size) * size
    spectrum = 1.0 / (1.0 + k**2) ** decay
    spectrum /= spectrum.mean()

    def circulant(column):
        return np.stack([np.roll(column, i) for i in range(len(column))], axis=1)

    large = circulant(np.fft.ifft(spectrum).real)
    average = np.kron(np.eye(size // m), np.full((1, m), 1.0 / m))
    repeat = np.kron(np.eye(size // m), np.ones((m, 1)))
    small = average @ large @ average.T
    power_low = np.fft.fft(small[:, 0]).real
    half = size // m // 2

    def small_matrix(lam, wide):
        a, s = alpha_sigma(lam)
        kernel = np.fft.ifft(a * power_low / (a**2 * power_low + s**2)).real
        if not wide:
            return circulant(kernel)
        column = np.zeros(size)
        for place, value in enumerate(np.roll(kernel, half)):
            column[(place - half) % size] = value
        return circulant(column)

    def denoise(z, lam, t):
        a, s = alpha_sigma(lam)
        eps = (z - a * small_matrix(lam, True) @ z) / s
        if t >= 1 - eta:
            low = lam + np.log(m) if time else lam
            a_low, s_low = alpha_sigma(low)
            given = average @ z / (np.sqrt(a**2 + s**2 / m) if power else 1.0)
            eps_low = (given - a_low * small_matrix(low, False) @ given) / s_low
            eps = eps + strength * repeat @ (eps_low / np.sqrt(m) - average @ eps)
        return (z - s * eps) / a

    first, last = (np.arctan(np.exp(-0.5 * end)) for end in (ends[1], ends[0]))
    times = np.linspace(1.0, 0.0, steps + 1)
    lams = -2.0 * np.log(np.tan(first + times * (last - first)))
    z = np.eye(size)
    for i in range(steps):
        x = denoise(z, lams[i], times[i])
        (a, s), (a2, s2) = alpha_sigma(lams[i]), alpha_sigma(lams[i + 1])
        z = a2 * x + s2 * (z - a * x) / s if i < steps - 1 else x
    pooled = average @ z
    return w2(z @ z.T, large), w2(pooled @ pooled.T, small)


def w2(first, second):
    """Wasserstein-2 of centred normal laws, per element."""
    from scipy.linalg import sqrtm

    root = sqrtm(second).real
    cross = np.trace(sqrtm(root @ first @ root).real)
    return np.sqrt(max(np.trace(first) + np.trace(second) - 2 * cross, 0.0) / len(first))


def identity_terms(x, teacher, fake, sigma, noise, alpha):
    """L2 - alpha L1 of SiD (arXiv 2404.04057) and its weight, an example: denoisers (y, sigma)."""
    losses, weights = [], []
    for one, s, n in zip(x, sigma, noise, strict=True):
        y = (one + s * n)[None]
        f, p = teacher(y, np.array([s]))[0], fake(y, np.array([s]))[0]
        first, second = np.sum((f - p) ** 2), np.sum((f - p) * (f - one))
        losses.append(second - alpha * first)
        weights.append(1.0 / max(np.mean(np.abs(one - f)), 1e-5))
    return np.array(losses), np.array(weights)
