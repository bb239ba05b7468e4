"""Why S4 is built as it is: what fails without each of its parts, and by how much."""

from fractions import Fraction
from math import log2

import numpy as np
import pytest

from experiments.ssm import structure
from ssm import hippo, legs
from ssm.discretize import discretize


def partial_sums(n, value):
    """S_k of the eigenvector of -A with that eigenvalue, S_{n-1} = 1, by exact recurrence."""
    S = [Fraction(0)] * n
    S[-1] = Fraction(1)
    for k in range(n - 1, 0, -1):
        S[k - 1] = Fraction(value - k - 1, value + k) * S[k]
    return S


@pytest.mark.parametrize(("n", "value"), [(6, 1), (6, 2), (9, 3), (9, 9)])
def test_the_recurrence_gives_the_eigenvectors(n, value):
    S = np.array([float(s) for s in partial_sums(n, value)])
    r = np.sqrt(2.0 * np.arange(n) + 1.0)
    v = np.diff(S, prepend=0.0) / r
    A, _ = hippo.transition("legs", n)
    np.testing.assert_allclose(A @ v, -value * v, atol=1e-12 * np.abs(v).max())


@pytest.mark.parametrize("n", [3, 9, 24, 60, 240])
def test_eigenvectors_range_over_four_thirds_of_a_bit_for_each_coordinate(n):
    m = n // 3
    S = partial_sums(n, m)
    exact = abs(1 / S[m - 1])
    bits = log2(exact.numerator) - log2(exact.denominator)
    assert abs(structure.eigenvector_range(n) - bits) < 1e-9
    # Stirling: 2^(4n/3) over the square root of n, up to a factor.
    assert abs(bits - (4.0 * n / 3.0 - 0.5 * log2(n))) < 2.0


def test_diagonalising_legs_fails_and_normal_plus_rank_one_does_not():
    row = structure._diagonalisation(48)
    assert row["direct"] > 1e-2
    assert row["low_rank"] < 1e-13 and row["unitary"] < 1e-13


def test_the_truncated_c_belongs_to_roots_of_order_l_alone():
    """At roots of order 2 L the same C~ gives C (1 + a^L)^-1 a^l b, for all l < 2 L."""
    n, length = 6, 20
    A, B = hippo.transition("legs", n)
    a, b = discretize(A, B, 0.05, "bilinear")
    C = np.random.default_rng(0).normal(size=n)
    power = np.linalg.matrix_power(a, length)
    truncated = C @ (np.eye(n) - power)
    naive = structure._from_roots(truncated, a, b, 2 * length)
    row = np.linalg.solve((np.eye(n) + power).T, C)
    expected = [row @ np.linalg.matrix_power(a, k) @ b for k in range(2 * length)]
    np.testing.assert_allclose(naive, expected, atol=1e-12)
    kernel = np.array([C @ np.linalg.matrix_power(a, k) @ b for k in range(length)])
    assert np.abs(naive[:length] - kernel).max() > 0.05 * np.abs(kernel).max()
    assert np.abs(naive[length:]).max() > 0.05 * np.abs(kernel).max()
    right = structure._from_roots(truncated, a, b, 2 * length, C @ (np.eye(n) + power))
    np.testing.assert_allclose(right[:length], kernel, atol=1e-12)
    np.testing.assert_allclose(right[length:], 0.0, atol=1e-12)


def test_the_matrix_of_legs_with_a_fixed_step_forgets_exponentially():
    n, dt = 4, 0.05
    A, _ = hippo.transition("legs", n)
    a, _ = discretize(A, np.zeros(n), dt, "zoh")
    left = [np.linalg.norm(np.linalg.matrix_power(a, k), 2) for k in (400, 800)]
    np.testing.assert_allclose(np.log(left[0] / left[1]) / (400 * dt), 1.0, rtol=1e-3)
    own = [np.linalg.norm(legs.forgetting(n, 8, k), 2) for k in (4000, 8000)]
    np.testing.assert_allclose(own[0] / own[1], 2.0, rtol=0.02)
