"""How the frequencies of RoPE are stretched for contexts longer than a model was trained on.

Notation
    theta_k  base^(-2k / d_r), k = 0..d_r/2 - 1: the frequencies of `rope`
    s, L_0   factor of a longer context, the length the model was trained on
    m        YaRN's attention factor m(s, a) = 0.1 a ln s + 1, and 1 for s <= 1

Source: Peng et al., YaRN (arXiv 2309.00071); the frequencies of Llama 3.1 from its reference code.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Linear:
    """Positions divided by a factor (position interpolation).

    Attributes:
        factor: s.

    Source: Peng et al., YaRN (arXiv 2309.00071), equation 10.
    """

    factor: float

    def __post_init__(self):
        _check_positive(self, "factor")


@dataclass(frozen=True)
class Llama3:
    """Slow frequencies divided by a factor, fast ones kept, a ramp between them.

    Attributes:
        factor: s.
        low, high: turns within `original_length` below which a frequency is divided, and above
            which it is kept.
        original_length: L_0.

    Source: the reference code of Llama 3.1; the same as Peng et al. (arXiv 2309.00071),
    definition 2, with alpha = low and beta = high.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        _check_positive(self, "factor", "low", "original_length")
        if self.high <= self.low:
            raise ValueError(f"high: expected more than low = {self.low}, got {self.high}")


@dataclass(frozen=True)
class Yarn:
    """YaRN: a ramp over the index of the frequencies, and factors of the scores.

    Attributes:
        factor: s.
        original_length: L_0.
        beta_fast, beta_slow: turns within L_0 at the ends of the ramp.
        mscale, mscale_all_dim: values of a in DeepSeek's factors: cos and sin are multiplied by
            m(s, mscale) / m(s, mscale_all_dim), scores by m(s, mscale_all_dim)^2. Unless both are
            given, cos and sin are multiplied by m(s, 1); without the second, scores by 1.

    Source: Peng et al. (arXiv 2309.00071), definitions 2 and 3, with a ramp over the index as in
    public code instead of over the turns; DeepSeek-V2 (arXiv 2405.04434), section 3.1.4, for the
    factors.
    """

    factor: float
    original_length: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self):
        _check_positive(self, "factor", "original_length", "beta_slow")
        if self.beta_fast <= self.beta_slow:
            raise ValueError(
                f"beta_fast: expected more than beta_slow = {self.beta_slow}, got {self.beta_fast}"
            )


Scaling = Linear | Llama3 | Yarn


def _check_positive(scaling: Any, *names: str) -> None:
    for name in names:
        if not getattr(scaling, name) > 0:
            raise ValueError(f"{name}: expected more than 0, got {getattr(scaling, name)}")


def stretch(dim: int, base: float, scaling: Scaling) -> np.ndarray:
    """What every frequency is multiplied by, float64."""
    theta = float(base) ** (-np.arange(0, dim, 2) / dim)
    slow = 1.0 / scaling.factor
    if isinstance(scaling, Linear):
        return np.full(dim // 2, slow)
    if isinstance(scaling, Llama3):
        turns = scaling.original_length * theta / (2.0 * np.pi)
        kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
        return kept + (1.0 - kept) * slow

    def index(turns: float) -> float:
        """Of the frequency that makes so many turns within the original length."""
        turned = math.log(scaling.original_length / (2.0 * math.pi * turns))
        return dim * turned / (2.0 * math.log(base))

    low = max(math.floor(index(scaling.beta_fast)), 0)
    high = min(math.ceil(index(scaling.beta_slow)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low if high > low else 1e-3), 0.0, 1.0)
    return ramp * slow + (1.0 - ramp)


def _factor(scale: float, a: float) -> float:
    """YaRN's m(s, a)."""
    return 1.0 if scale <= 1.0 else 0.1 * a * math.log(scale) + 1.0


def amplitude(scaling: Scaling | None) -> float:
    """What cos and sin are multiplied by.

    m(s, mscale) / m(s, mscale_all_dim) if both are given, else m(s, 1); 1 but for YaRN.

    Source: Peng et al. (arXiv 2309.00071), section 3.4: sqrt(1/t) = 0.1 ln s + 1.
    """
    if not isinstance(scaling, Yarn):
        return 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        above, below = scaling.mscale, scaling.mscale_all_dim
        return _factor(scaling.factor, above) / _factor(scaling.factor, below)
    return _factor(scaling.factor, 1.0)


def score_factor(scaling: Scaling | None) -> float:
    """What scores are multiplied by, beside d^(-1/2): m(s, mscale_all_dim)^2.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 3.1.4: 0.0707 ln s + 1, squared.
    """
    if not isinstance(scaling, Yarn) or not scaling.mscale_all_dim:
        return 1.0
    return _factor(scaling.factor, scaling.mscale_all_dim) ** 2
