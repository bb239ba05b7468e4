"""Points of several dimensions to learn densities of: five well-known laws of the plane, digits.

Sources: the laws of the plane are drawn as in the code of "FFJORD" (arXiv 1810.01367), the banana
as in "Nonlinear Transform Coding" (arXiv 2007.03034). The digits are the 8 x 8 images of 17 levels
that are part of scikit-learn (UCI, optical recognition of handwritten digits).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

Draw = Callable[[jax.Array, int], jax.Array]
DIGITS = "digits"
TRAINED = 1500  # of 1797 digits


@dataclass(frozen=True)
class Plane:
    """A law of points [count, 2].

    Attributes:
        draw: (key, count) -> points.
        entropy: in nats, where it has a formula.
    """

    draw: Draw
    entropy: float | None = None


def banana(key: jax.Array, count: int) -> jax.Array:
    """Points [count, 2]: a normal distribution bent, turned by 240 degrees and shifted by one."""
    z = jax.random.normal(key, (count, 2)) * jnp.array([3.0, 0.5])
    bent = jnp.stack([z[:, 0], z[:, 1] - 0.1 * z[:, 0] ** 2], axis=-1)
    c, s = np.cos(np.deg2rad(240.0)), np.sin(np.deg2rad(240.0))
    return bent @ jnp.array([[c, s], [-s, c]], jnp.float32) + 1.0


def _moons(key: jax.Array, count: int) -> jax.Array:
    """Two half circles; noise 0.2, twice the usual size in all."""
    keys = jax.random.split(key, 3)
    angle = np.pi * jax.random.uniform(keys[0], (count,))
    c, s = jnp.cos(angle), jnp.sin(angle)
    upper = jax.random.bernoulli(keys[1], 0.5, (count, 1))
    x = jnp.where(upper, jnp.stack([c, s], -1), jnp.stack([1.0 - c, 0.5 - s], -1))
    x = x + 0.1 * jax.random.normal(keys[2], (count, 2))
    return 2.0 * x + jnp.array([-1.0, -0.2])


def _gaussians(key: jax.Array, count: int) -> jax.Array:
    """Eight normal distributions of scale 0.35 on a circle of radius 2.8."""
    keys = jax.random.split(key)
    angle = np.pi / 4 * jax.random.randint(keys[0], (count,), 0, 8)
    centre = 4.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return (centre + 0.5 * jax.random.normal(keys[1], (count, 2))) / 2**0.5


def _checkerboard(key: jax.Array, count: int) -> jax.Array:
    """Uniform on eight of the sixteen unit squares of [-2, 2]^2."""
    keys = jax.random.split(key, 3)
    x = jax.random.uniform(keys[0], (count,), minval=-2.0, maxval=2.0)
    row = 2.0 * jax.random.randint(keys[2], (count,), -1, 1) + jnp.floor(x) % 2
    return jnp.stack([x, jax.random.uniform(keys[1], (count,)) + row], -1)


def _spirals(key: jax.Array, count: int) -> jax.Array:
    """Two arms of one and a half turns each."""
    keys = jax.random.split(key, 4)
    angle = 3.0 * np.pi * jnp.sqrt(jax.random.uniform(keys[0], (count, 1)))
    arm = jnp.concatenate([-jnp.cos(angle), jnp.sin(angle)], -1) * angle
    arm = arm + 0.5 * jax.random.uniform(keys[1], (count, 2))
    arm = jnp.where(jax.random.bernoulli(keys[2], 0.5, (count, 1)), arm, -arm)
    return arm / 3.0 + 0.1 * jax.random.normal(keys[3], (count, 2))


PLANE = {
    "moons": Plane(_moons),
    "banana": Plane(banana, float(np.log(2.0 * np.pi * np.e * 3.0 * 0.5))),
    "gaussians": Plane(_gaussians),
    "checkerboard": Plane(_checkerboard, float(np.log(8.0))),
    "spirals": Plane(_spirals),
}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Levels from -1 to 1 in steps of 1/8, [1500, 64] to learn and [297, 64] to test."""
    from sklearn.datasets import load_digits

    levels = np.asarray(load_digits(return_X_y=True)[0], np.float32) / 8.0 - 1.0
    return levels[:TRAINED], levels[TRAINED:]


def unit(source: str) -> float:
    """Nats that stand for one in tables: a bit of all pixels for digits, a nat for the others."""
    return 64 * float(np.log(2.0)) if source == DIGITS else 1.0


def histogram_bits(learnt: np.ndarray, tested: np.ndarray) -> float:
    """Bits a pixel of a histogram of 17 levels for each pixel, one count added to all."""
    levels = np.arange(-1.0, 1.01, 0.125)
    counts = (learnt[..., None] == levels).sum(0) + 1.0
    chosen = np.log2(counts / counts.sum(-1, keepdims=True))
    return float(-np.mean((chosen * (tested[..., None] == levels)).sum(-1)))
