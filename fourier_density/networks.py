"""Networks whose d-th output sees only the coordinates before the d-th.

    network = masked_mlp(dimensions=2, outputs=head.outputs, hidden=64)
    raw = network.apply(network.init(key), x)           # x [..., D] to raw [..., D, outputs]

Last layers start at zero, so heads start at the density they give for zeros (see `heads`).

Source: Germain, Gregor, Murray, Larochelle, "MADE" (arXiv 1502.03509), for masks; van den Oord,
Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks" (arXiv 1601.06759), for weights shared
by all pixels of an image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from fourier_density import checks

Params = dict[str, Any]


class Network(NamedTuple):
    """A network as two pure functions, `init` and `apply`.

    Attributes:
        dimensions: D, coordinates of x.
        outputs: numbers for each coordinate.
        init: key -> parameters.
        apply: (parameters, x [..., D], key=None) -> [..., D, outputs]; a key turns dropout on.
    """

    dimensions: int
    outputs: int
    init: Callable[[Key[Array, ""]], Params]
    apply: Callable[..., Array]


def waves(frequencies: int, circular: bool = False) -> Callable[[Array], Array]:
    """A function from x [...] to features [..., F]: cos and sin of pi k v, k = 1..frequencies.

    With `circular` (angles in units of pi) v = x; otherwise v = tanh(x), and x is one more feature.
    """
    k = np.pi * np.arange(1, frequencies + 1)

    def features(x: Array) -> Array:
        angle = (x if circular else jnp.tanh(x))[..., None] * jnp.asarray(k, x.dtype)
        own = x[..., None][..., : 0 if circular else 1]
        return jnp.concatenate([own, jnp.cos(angle), jnp.sin(angle)], axis=-1)

    return features


def masked_mlp(
    dimensions: int,
    outputs: int,
    *,
    hidden: int = 64,
    layers: int = 2,
    features: Callable[[Array], Array] | None = None,
    dropout: float = 0.0,
) -> Network:
    """A residual masked network: hidden unit j sees the first (j mod (D - 1)) + 1 coordinates.

    Args:
        dimensions: D >= 1.
        outputs: numbers for each coordinate.
        hidden: width, at least D - 1.
        layers: residual blocks.
        features: [...] -> [..., F] of every coordinate; the coordinate itself by default.
        dropout: rate inside the blocks; active when `apply` gets a key.

    Raises:
        ValueError: sizes out of range.

    Source: Germain et al., "MADE" (arXiv 1502.03509), for the masks.
    """
    _check_sizes(dimensions, outputs, hidden, layers, dropout)
    if hidden < dimensions - 1:
        raise ValueError(f"hidden: expected at least D - 1 = {dimensions - 1}, got {hidden}")
    features = features or (lambda x: x[..., None])
    probe = jax.eval_shape(features, jax.ShapeDtypeStruct((dimensions,), jnp.float32))
    wide = probe.shape[-1]
    degrees = np.arange(hidden) % max(dimensions - 1, 1)  # unit j sees coordinates up to degrees[j]
    into = np.repeat(np.arange(dimensions), wide)[:, None] <= degrees
    inner = degrees[:, None] <= degrees
    out = degrees[:, None] < np.arange(dimensions)

    def init(key: Key[Array, ""]) -> Params:
        keys = jax.random.split(key, 2)
        blocks = jax.vmap(lambda k: _block(k, hidden))(jax.random.split(keys[1], layers))
        return {
            "into": jax.random.normal(keys[0], into.shape) / np.sqrt(max(into.sum(0).mean(), 1.0)),
            "input_bias": jnp.zeros(hidden),
            "blocks": blocks,
            "out": jnp.zeros((hidden, dimensions, outputs)),
            "output_bias": jnp.zeros((dimensions, outputs)),
        }

    def apply(params: Params, x: Array, key: Any = None) -> Array:
        seen = features(x).reshape(*x.shape[:-1], dimensions * wide)
        h = seen @ (params["into"] * into) + params["input_bias"]
        h = _residual(params["blocks"], h, inner, dropout, key)
        return (
            jnp.einsum("...h,hdp->...dp", h, params["out"] * out[..., None]) + params["output_bias"]
        )

    return Network(dimensions, outputs, init, apply)


def window_mlp(
    shape: tuple[int, int],
    outputs: int,
    *,
    reach: int = 7,
    hidden: int = 128,
    layers: int = 2,
    dropout: float = 0.0,
) -> Network:
    """An MLP shared by all pixels of an image, each of which sees earlier pixels near it.

    Args:
        shape: height and width; coordinates are the pixels row by row (raster order).
        outputs: numbers for each pixel.
        reach: rows above, and columns on either side, that are seen.
        hidden, layers, dropout: as in `masked_mlp`; input and output biases differ by pixel.

    Raises:
        ValueError: sizes out of range.

    Source: van den Oord et al. (arXiv 1601.06759), for weights shared by all pixels.
    """
    height, width = shape
    _check_sizes(height * width, outputs, hidden, layers, dropout)
    checks.whole("reach", reach)
    near = [(i, j) for i in range(-reach, 1) for j in range(-reach, reach + 1) if (i, j) < (0, 0)]
    index, inside = _neighbours(height, width, near)
    everything = np.ones((hidden, hidden), bool)

    def init(key: Key[Array, ""]) -> Params:
        keys = jax.random.split(key, 3)
        blocks = jax.vmap(lambda k: _block(k, hidden))(jax.random.split(keys[1], layers))
        return {
            "into": jax.random.normal(keys[0], (len(near), hidden)) / np.sqrt(len(near)),
            "input_bias": 0.02 * jax.random.normal(keys[2], (height * width, hidden)),
            "blocks": blocks,
            "out": jnp.zeros((hidden, outputs)),
            "output_bias": jnp.zeros((height * width, outputs)),
        }

    def apply(params: Params, x: Array, key: Any = None) -> Array:
        seen = jnp.where(inside, x[..., index], 0.0)  # [..., D, len(near)]
        h = seen @ params["into"] + params["input_bias"]
        h = _residual(params["blocks"], h, everything, dropout, key)
        return h @ params["out"] + params["output_bias"]

    return Network(height * width, outputs, init, apply)


def _neighbours(
    height: int, width: int, near: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Places [D, len(near)] of the pixels around each, and which of them are in the image."""
    rows, columns = np.divmod(np.arange(height * width), width)
    offsets = np.array(near)
    i, j = rows[:, None] + offsets[:, 0], columns[:, None] + offsets[:, 1]
    inside = (i >= 0) & (j >= 0) & (j < width)
    return np.where(inside, i * width + j, 0), inside


def _block(key: Key[Array, ""], hidden: int) -> Params:
    keys = jax.random.split(key, 2)
    up = jax.random.normal(keys[0], (hidden, hidden)) / np.sqrt(hidden)
    down = 0.1 * jax.random.normal(keys[1], (hidden, hidden)) / np.sqrt(hidden)
    return {"up": up, "down": down, "inner_bias": jnp.zeros(hidden)}


def _residual(blocks: Params, h: Array, mask: np.ndarray, dropout: float, key: Any) -> Array:
    """Blocks h + down(gelu(up h + bias)), and a gelu behind them.

    There is no norm over hidden units: those of a masked network see different coordinates.
    """
    count = blocks["inner_bias"].shape[0]

    def body(h: Array, block: Any) -> tuple[Array, None]:
        weights, number = block
        inner = jax.nn.gelu(h @ (weights["up"] * mask) + weights["inner_bias"])
        if key is not None and dropout:
            keep = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - dropout, inner.shape)
            inner = jnp.where(keep, inner / (1.0 - dropout), 0.0)
        return h + inner @ (weights["down"] * mask), None

    h, _ = jax.lax.scan(body, h, (blocks, jnp.arange(count)))
    return jax.nn.gelu(h)


def _check_sizes(dimensions: int, outputs: int, hidden: int, layers: int, dropout: float) -> None:
    for name, size in (("dimensions", dimensions), ("outputs", outputs), ("hidden", hidden)):
        checks.whole(name, size)
    checks.whole("layers", layers, 0)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
