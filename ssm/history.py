"""Memories of the whole history: systems c' = (A c + B u)/t, whose step needs no step size.

Notation
    k  number of samples read, as a floating point number; the step to the k-th divides by k
    c  the state [N]; u the k-th sample
    h  1/(2k), the weight of A at the new point
    g  1/(2(k-1)), its weight at the old point, where the time differs

What a step does, by name of the method:

    forward    c_k = c_{k-1} + (A c_{k-1} + B u_k) / k
    backward   c_k = c_{k-1} + (A c_k + B u_k) / k
    bilinear   c_k = c_{k-1} + (A (c_{k-1} + c_k)/2 + B u_k) / k
    trapezoid  both ends, each at its own time and with its own sample: second order
    exact      for a signal that is constant from sample to sample

For the last two, the first sample sets the state of the constant signal u_1. An implicit step with
A on both sides is one linear solve, because (I - hA)^{-1} (I + gA) = (1 + g/h) (I - hA)^{-1} -
(g/h) I: there is no product with A, whose large entries would cost digits.

Source: https://kexue.fm/archives/10137; arXiv 2008.07669, section 3.3 and appendix B.3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssm import discretize, hippo, legs

METHODS = ("forward", "backward", "bilinear", "trapezoid", "exact")


class System(NamedTuple):
    """What can be done with (A, B), whose constant state is the first unit vector.

    Attributes:
        B: [N].
        multiply: c -> A c.
        solve: (h, f) -> (I - h A)^{-1} f.
        read: (k, c, u) -> the exact state after the k-th sample, for k > 1.
    """

    B: Array
    multiply: Callable[[Array], Array]
    solve: Callable[[Array, Array], Array]
    read: Callable[[Array, Array, Array], Array]


def system(measure: str, n: int, dtype: jnp.dtype) -> System:
    """LegS by its structure, in O(N) a step but for the exact method; others by matrices."""
    if measure == "legs":
        return System(legs.roots(n, dtype), legs.multiply, legs.solve, legs.read)
    return dense(*hippo.transition(measure, n), dtype)


def dense(A: np.ndarray, B: np.ndarray, dtype: jnp.dtype) -> System:
    """Any system; a step costs O(N^3), since A/k is another matrix at every sample.

    Source: https://kexue.fm/archives/10137, equation 16 (`read`).
    """
    matrix, vector = jnp.asarray(A, dtype), jnp.asarray(B, dtype)

    def solve(h: Array, f: Array) -> Array:
        return jnp.linalg.solve(jnp.eye(vector.size, dtype=dtype) - h * matrix, f)

    def read(k: Array, c: Array, u: Array) -> Array:
        elapsed = jnp.log(k / jnp.maximum(k - 1.0, 1.0))  # of the logarithm of time
        A_bar, B_bar = discretize.discretize(matrix, vector, elapsed, "zoh")
        return A_bar @ c + B_bar * u

    return System(vector, lambda c: matrix @ c, solve, read)


def step(system: System, method: str, k: Array, c: Array, before: Array, u: Array) -> Array:
    """The state after the k-th sample u; `before` is the sample before it, c the state then.

    Source: https://kexue.fm/archives/10137, equations 15 ("trapezoid"; there the input is B u_k
    / (k - 1)) and 16 ("exact"), with samples counted from 1; arXiv 2008.07669, section 3.3 and
    appendix B.3 (the other methods).
    """
    B = system.B
    if method == "forward":
        return c + (system.multiply(c) + B * u) / k
    if method == "backward":
        return system.solve(1.0 / k, c + B * u / k)
    h = 0.5 / k
    if method == "bilinear":
        return system.solve(h, 2.0 * (c + h * B * u)) - c
    if method == "trapezoid":
        g = 0.5 / jnp.maximum(k - 1.0, 1.0)
        new = system.solve(h, (1.0 + g / h) * c + B * (g * before + h * u)) - g / h * c
    else:
        new = system.read(k, c, u)
    return jnp.where(k > 1, new, jnp.zeros_like(c).at[0].set(u))
