"""The systems of the HiPPO measures: their ODEs on exact projections, and their structure."""

import numpy as np
import pytest
from reference import hippo as reference

from ssm import hippo

T, THETA, STEP = 1.3, 0.7, 1e-3


def derivative(u, measure, n, theta, **shape):
    """c'(t) by a central difference of eighth order, of exact projections."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}

    def at(t):
        return reference.coefficients(u, t, measure, n, theta, **shape)

    return sum(w * (at(T + j * STEP) - at(T - j * STEP)) / STEP for j, w in weights.items())


def residual(u, measure, n, theta=THETA, **shape):
    """What is left of c' - (A c + B u), with the factor 1/t of the whole history."""
    whole = measure in hippo.WHOLE
    A, B = hippo.transition(measure, n, window=1.0 if whole else theta, **shape)
    c = reference.coefficients(u, T, measure, n, theta, **shape)
    scale = 1.0 / T if whole else 1.0
    return derivative(u, measure, n, theta, **shape) - scale * (A @ c + B * u(T))


def smooth(t):
    return np.sin(3 * t + 0.4) + 0.3 * t**2


def cubic(t):
    return 0.4 - t + 0.7 * t**2 + 0.2 * t**3


def periodic(t):
    return 0.3 + np.cos(2 * np.pi * t / THETA + 0.3) - 0.4 * np.sin(4 * np.pi * t / THETA)


@pytest.mark.parametrize(
    ("measure", "u", "n", "shape"),
    [
        ("legs", smooth, 7, {}),  # closed for every signal
        ("lagt", smooth, 6, {}),
        ("glagt", smooth, 6, {"alpha": 0.5, "beta": 0.6}),
        ("glagt", smooth, 6, {"alpha": 0.0, "beta": 1.0}),
        ("legt", cubic, 5, {}),  # closed where the basis can represent the signal
        ("lmu", cubic, 5, {}),
        ("fout", periodic, 7, {}),
        ("fout_naive", periodic, 7, {}),
    ],
)
def test_projections_solve_the_equation(measure, u, n, shape):
    np.testing.assert_allclose(residual(u, measure, n, **shape), 0.0, atol=2e-9)


def test_averaging_both_ends_is_right_at_a_jump_and_the_naive_form_is_not():
    def ramp(t):
        return t

    averaged = [np.abs(residual(ramp, "fout", n)[0]) for n in (5, 21, 81)]
    assert max(averaged) < 1e-8  # the series at the jump is the average whatever its length
    naive = [np.abs(residual(ramp, "fout_naive", n)[0]) for n in (5, 21, 81)]
    assert min(naive) > 0.2


def test_fourier_on_the_whole_history_is_closed_only_in_the_limit():
    errors = [np.abs(residual(smooth, "fous", n)[:3]).max() for n in (9, 33, 129)]
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.5 * errors[1]
    np.testing.assert_allclose(residual(np.ones_like, "fous", 9), 0.0, atol=1e-9)


def test_fous_has_the_entries_that_the_post_prints():
    A, B = hippo.fous_complex(5)
    for i, n in enumerate(range(-2, 3)):
        for j, k in enumerate(range(-2, 3)):
            assert A[i, j] == (1j * np.pi * n - 1 if k == n else -n / (n - k))
    U = hippo.real_from_complex(5)
    np.testing.assert_allclose(U @ U.conj().T, np.eye(5), atol=1e-15)
    real, ones = hippo.transition("fous", 5)
    np.testing.assert_allclose(U.conj().T @ real @ U, A, atol=1e-14)
    np.testing.assert_allclose(U.conj().T @ ones, B, atol=1e-15)


def test_entries_of_the_papers():
    """Equations of the HiPPO paper, theorems 1 and 2, entry by entry, and of LMU."""
    n, root = 6, lambda k: np.sqrt(2 * k + 1)
    for measure in ("legs", "legt", "lmu", "lagt"):
        A, B = hippo.transition(measure, n)
        for i in range(n):
            for k in range(n):
                expected = {
                    "legs": -root(i) * root(k) if i > k else -(i + 1) * (i == k),
                    "legt": -root(i) * root(k) * ((-1) ** (i - k) if i < k else 1),
                    "lmu": (2 * i + 1) * (-1 if i < k else (-1) ** (i - k + 1)),
                    "lagt": -1.0 if i > k else -0.5 * (i == k),
                }[measure]
                np.testing.assert_allclose(A[i, k], expected, rtol=1e-14)
            first = {"lmu": (-1) ** i * (2 * i + 1), "lagt": 1.0}.get(measure, root(i))
            np.testing.assert_allclose(B[i], first, rtol=1e-14)


def test_a_window_of_two_halves_the_system_and_laguerre_has_its_plain_case():
    A, B = hippo.transition("legt", 4)
    halved = hippo.transition("legt", 4, window=2.0)
    np.testing.assert_array_equal(halved[0], A / 2)
    np.testing.assert_array_equal(halved[1], B / 2)
    A, _ = hippo.transition("glagt", 4, alpha=0.0, beta=1.0)
    np.testing.assert_allclose(A, -np.tril(np.ones((4, 4))))


def test_rescaling_removes_the_square_roots():
    A, B = hippo.rescale(*hippo.transition("legs", 5), np.sqrt(2 * np.arange(5) + 1))
    odd = 2.0 * np.arange(5) + 1
    expected = -np.tril(np.tile(odd[:, None], 5), -1) - np.diag(np.arange(5) + 1)
    np.testing.assert_allclose(A, expected, atol=1e-14)
    np.testing.assert_allclose(B, odd)


def test_legs_has_the_eigenvalues_minus_one_to_minus_n():
    A, _ = hippo.transition("legs", 8)
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(A).real), -np.arange(8.0, 0, -1))


@pytest.mark.parametrize("n", [1, 2, 5, 64, 255])
@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "fout", "fout_naive"])
def test_normal_plus_low_rank(measure, n):
    if measure in hippo.FOURIER and n % 2 == 0:
        n += 1
    window = 1.0 if measure in hippo.WHOLE else 2.0
    A, B = hippo.transition(measure, n, window=window)
    scale = np.abs(A).max()
    normal, P = hippo.nplr(measure, n, window=window)
    assert P.shape == (2 if measure == "legt" else 1, n)
    shift = -0.5 if measure == "legs" else 0.0
    turning = normal - shift * np.eye(n)
    np.testing.assert_allclose(turning, -turning.T, atol=1e-12 * scale)
    np.testing.assert_allclose(normal - P.T @ P, A, atol=1e-12 * scale)
    Lambda, P, B_new, V = hippo.dplr(measure, n, window=window)
    np.testing.assert_array_equal(Lambda.real, shift)
    np.testing.assert_array_equal(Lambda.imag, -Lambda.imag[::-1])
    rebuilt = V @ (np.diag(Lambda) - P.T @ P.conj()) @ V.conj().T
    np.testing.assert_allclose(rebuilt, A, atol=1e-12 * scale)
    np.testing.assert_allclose(V @ B_new, B, atol=1e-12 * np.abs(B).max())
    np.testing.assert_allclose(V.conj().T @ V, np.eye(n), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("legz", 4), r"measure: expected one of legs, legt, .*got 'legz'"),
        (("legs", 0), r"n: expected an integer >= 1, got 0"),
        (("fout", 4), r"n: fout has .* expected odd, got 4"),
        (("fous", 8), r"n: fous .*odd, got 8"),
    ],
)
def test_bad_measures_and_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        hippo.transition(*arguments)


@pytest.mark.parametrize("window", [0.0, -1.0, np.inf, np.nan])
def test_bad_windows(window):
    with pytest.raises(ValueError, match="window: expected a positive number"):
        hippo.transition("legt", 3, window=window)


def test_other_bad_input():
    with pytest.raises(ValueError, match=r"window: legs keeps the whole history.*0.5"):
        hippo.transition("legs", 3, window=0.5)
    with pytest.raises(ValueError, match="alpha, beta: expected numbers above -1"):
        hippo.transition("glagt", 3, alpha=-1.0)
    with pytest.raises(ValueError, match=r"measure: expected one of legs, legt, .*got 'lmu'"):
        hippo.nplr("lmu", 3)
