"""Rotary position embedding (RoPE), and how its frequencies are stretched for longer contexts.

Notation
    d_r      rotated dimension, even
    theta_k  base^(-2k / d_r), k = 0..d_r/2 - 1
    s, L_0   factor of a longer context, the length the model was trained on
    m        YaRN's attention factor m(s, a) = 0.1 a ln s + 1, and 1 for s <= 1

Two layouts are in use for the pairs that rotate together. `half` (Llama, Hugging Face):
(k, k + d_r/2). `interleaved` (RoFormer, Su, DeepSeek): (2k, 2k+1). They differ by a fixed
permutation of the columns of the query and key projections (`convert`).

Source: Su et al., "RoFormer" (arXiv 2104.09864), section 3.2; https://kexue.fm/archives/8265; Peng
et al., YaRN (2309.00071); the frequencies of Llama 3.1 from its reference code.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Layout = Literal["half", "interleaved"]


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
        mscale, mscale_all_dim: DeepSeek's a of two factors: cos and sin are multiplied by
            m(s, mscale) / m(s, mscale_all_dim), scores by m(s, mscale_all_dim)^2. Without
            both, cos and sin are multiplied by m(s, 1); without the second, scores are left alone.

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


def check(dim: int, layout: Any, scaling: Any, base: float | None = None) -> None:
    """Refuse odd dimensions, unknown layouts and unknown scalings, bases that turn nothing.

    Raises:
        ValueError: naming what is wrong.
    """
    if base is not None and not (math.isfinite(base) and base > 1):
        raise ValueError(f"rope_base: expected a finite number above 1, got {base}")
    if dim <= 0 or dim % 2:
        raise ValueError(f"rope_dim: expected an even number > 0 of rotated dimensions, got {dim}")
    if layout not in get_args(Layout):
        raise ValueError(f"rope_layout: expected one of {get_args(Layout)}, got {layout!r}")
    if scaling is not None and not isinstance(scaling, Scaling):
        raise ValueError(f"rope_scaling: expected Linear, Llama3, Yarn or None, got {scaling!r}")


def frequencies(
    dim: int, base: float = 10_000.0, dtype: Any = jnp.float32, scaling: Scaling | None = None
) -> Float[Array, "half"]:
    """theta_k = base^(-2k/dim), in `dtype` (float32 by default), stretched by `scaling`.

    Raises:
        ValueError: dim is odd or not positive, unknown scaling.

    Source: Su et al. (arXiv 2104.09864), equation 15.
    """
    check(dim, "half", scaling)
    theta = base ** (-jnp.arange(0, dim, 2, dtype=dtype) / dim)
    if scaling is None:
        return theta
    return theta * jnp.asarray(_stretch(dim, base, scaling), dtype)


def _stretch(dim: int, base: float, scaling: Scaling) -> np.ndarray:
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


def tables(
    positions: Int[Array, "*batch"],
    dim: int,
    base: float = 10_000.0,
    dtype: Any = jnp.float32,
    scaling: Scaling | None = None,
) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
    """Cos and sin of position * theta_k, in float32 (bfloat16 breaks beyond position 256).

    Source: Su et al. (arXiv 2104.09864), equation 34, its factors.
    """
    angles = positions[..., None].astype(dtype) * frequencies(dim, base, dtype, scaling)
    size = amplitude(scaling)
    return size * jnp.cos(angles), size * jnp.sin(angles)


def rotate(
    x: Float[Array, "... dim"], cos: Array, sin: Array, layout: Layout = "half"
) -> Float[Array, "... dim"]:
    """Rotate the pairs of the last axis by the angles behind `cos` and `sin`.

    (a, b) -> (a cos - b sin, b cos + a sin) for every pair.

    Args:
        x: [..., d_r].
        cos, sin: [..., d_r/2], broadcast against the leading axes of x.
        layout: which dimensions form a pair.

    Raises:
        ValueError: an unknown layout.

    Source: Su et al. (arXiv 2104.09864), equations 15 and 34, in the layout "interleaved";
    https://kexue.fm/archives/10091, the rotation of equation 7.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"rope_layout: expected one of {get_args(Layout)}, got {layout!r}")
    dtype = x.dtype
    cos, sin = cos.astype(dtype), sin.astype(dtype)
    if layout == "half":
        first, second = jnp.split(x, 2, axis=-1)
    else:
        first, second = x[..., 0::2], x[..., 1::2]
    rotated = first * cos - second * sin, second * cos + first * sin
    if layout == "half":
        return jnp.concatenate(rotated, axis=-1)
    return jnp.stack(rotated, axis=-1).reshape(x.shape)


def rotated(x: Float[Array, "... T dim"], positions: Int[Array, "..."], config: Any) -> Array:
    """The vectors at positions [..., T], by the `rope_...` fields of a layer's configuration."""
    if config.rope_base is None:
        return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rule = (config.rope_dim, config.rope_base, wide, config.rope_scaling)
    return rotate(x, *tables(positions, *rule), config.rope_layout)


def rotate_part(
    x: Float[Array, "... dim"], cos: Array, sin: Array, layout: Layout = "half"
) -> Float[Array, "... dim"]:
    """Rotate the first dimensions, twice as many as the tables have, and leave the others.

    Source: https://kexue.fm/archives/10907, part I (partial RoPE: 64 of 256 dimensions; here the
    first ones).
    """
    count = 2 * cos.shape[-1]
    if count == x.shape[-1]:
        return rotate(x, cos, sin, layout)
    return jnp.concatenate([rotate(x[..., :count], cos, sin, layout), x[..., count:]], axis=-1)


def convert(
    weight: Float[Array, "... wide"],
    width: int,
    source: Layout,
    target: Layout,
    start: int = 0,
    stop: int | None = None,
) -> Float[Array, "... wide"]:
    """Columns of a query or key projection for another layout; scores stay as they are.

    Args:
        weight: [..., n width], the heads side by side.
        width: of a head.
        source, target: layouts.
        start, stop: rotated dimensions of each head; all of them by default.

    Raises:
        ValueError: unknown layouts, an odd number of rotated dimensions, a width that does not
            divide the columns.

    Source: derived from Su et al. (arXiv 2104.09864), equation 15: the same pairs at other places.
    """
    stop = width if stop is None else stop
    for layout in (source, target):
        check(stop - start, layout, None)
    if weight.shape[-1] % width or not 0 <= start < stop <= width:
        raise ValueError(
            f"width: expected a divisor of {weight.shape[-1]} and 0 <= start < stop <= width, got "
            f"{width}, {start}, {stop}"
        )
    index = np.arange(width)
    if source != target:
        pairs = np.arange(start, stop).reshape((2, -1) if source == "half" else (-1, 2))
        index[start:stop] = pairs.T.ravel()
    heads = weight.reshape(*weight.shape[:-1], -1, width)
    return heads[..., index].reshape(weight.shape)
