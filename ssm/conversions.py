"""One system in many forms: state space, transfer function, modes, companion; on the host.

Notation
    N        order
    A, B, C  state space in discrete time [N, N], [N], [N]; D direct term
    b, a     numerator b_1..b_N, denominator a_1..a_N (its leading 1 is not stored)
    p, c     poles and residues [N]
    K_l      impulse response: K_0 = D, K_l = C A^{l-1} B

    H(z) = D + C (z - A)^{-1} B
         = D + (b_1 z^-1 + ... + b_N z^-N) / (1 + a_1 z^-1 + ... + a_N z^-N)
         = D + sum_n c_n / (z - p_n)

a holds the coefficients of the characteristic polynomial of A. The post takes b from another one,
char(A - B C) - char(A), a difference of large numbers; here b is (1, a) * (K_1, ..., K_N), a
convolution cut to N terms. All is float64 (complex128 for complex systems). Errors grow with the
coefficients: those of many clustered poles need more digits than there are (see `reduction`).

Source: https://kexue.fm/archives/10180; Kailath, "Linear Systems" (1980), chapter 2.
"""

from typing import Any

import numpy as np

from ssm import checks

FORMS = ("companion", "observable")
TINY = 1e-13  # relative size of a numerator that counts as zero at a pole
CLOSE = 1e-7  # relative distance of poles that count as one: rounding parts double ones as far

Coefficients = tuple[np.ndarray, np.ndarray, Any]
StateSpace = tuple[np.ndarray, np.ndarray, np.ndarray, Any]


def to_transfer_function(A: Any, B: Any, C: Any, D: Any, *, minimal: bool = True) -> Coefficients:
    """Coefficients of the state space x_{k+1} = A x_k + B u_k, y_k = C x_k + D u_k.

    Its K_0 is D and its K_l is C A^{l-1} B. Of a system that reads x_{k+1} in y_k, with the kernel
    C A^l B (S4's, HiPPO's), give C A in the place of C and D + C B in that of D.

    Args:
        A: [N, N]; B: [N] or [N, 1]; C: [N] or [1, N]; D: a number. All in discrete time.
        minimal: refuse uncontrollable or unobservable modes: numerator and denominator then share
            a factor, and the state space cannot be recovered from them.

    Returns:
        numerator [N], denominator [N] and direct.

    Raises:
        ValueError: A that is not square, shapes that do not fit, values that are not finite, a
            system that is not minimal.

    >>> b, a, d = to_transfer_function([[0.5, 0.0], [0.0, 0.25]], [1.0, 1.0], [2.0, -1.0], 3.0)
    >>> b.round(9).tolist(), a.round(9).tolist(), float(d)
    ([1.0, 0.0], [-0.75, 0.125], 3.0)

    Source: https://kexue.fm/archives/10180, equation 14, for a; b by (1, a) * (K_1, ..., K_N)
    instead.
    """
    A, B, C, D = _state_space(A, B, C, D)
    if minimal:
        _check_minimal(A, B, C)
    a = np.poly(A)[1:]
    return numerator(_markov(A, B, C, len(B)), a), a, D


def to_state_space(
    numerator: Any,
    denominator: Any,
    direct: Any,
    form: str = "companion",
    *,
    minimal: bool = True,
) -> StateSpace:
    """A state space x_{k+1} = A x_k + B u_k, y_k = C x_k + D u_k with those coefficients.

    Args:
        numerator, denominator: [N].
        direct: a number.
        form: "companion", controllable, the post's: A has -a in its first row and ones below the
            diagonal, B is the first unit vector, C = b. "observable": its transpose.
        minimal: refuse a common factor of numerator and denominator: fewer states would suffice.

    Returns:
        A [N, N], B [N], C [N], D.

    Raises:
        ValueError: another form, shapes that do not fit, values that are not finite, a common
            factor.

    Source: https://kexue.fm/archives/10180, equations 19 and 25; the transpose: Kailath,
    "Linear Systems" (1980), chapter 2.
    """
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    b, a, d = _coefficients(numerator, denominator, direct)
    if minimal:
        _check_coprime(b, a)
    A = np.zeros((len(a), len(a)), np.result_type(a, b))
    A[0], A[1:, :-1] = -a, np.eye(len(a) - 1)
    first = np.eye(1, len(a), dtype=A.dtype)[0]
    return (A, first, b, d) if form == "companion" else (A.T.copy(), b, first, d)


def to_modal(*system: Any) -> Coefficients:
    """Poles and residues, H(z) = direct + sum_n residues_n / (z - poles_n).

    Args:
        system: numerator, denominator, direct; or A, B, C, D, whose eigenvectors then are used.

    Returns:
        poles [N] and residues [N], complex128, and direct.

    Raises:
        ValueError: neither three nor four arguments, what does not fit, poles that coincide:
            such a system is not a sum of simple fractions.

    Source: partial fractions; Kailath, "Linear Systems" (1980), chapter 2.
    """
    if len(system) == 4:
        A, B, C, D = _state_space(*system)
        poles, V = np.linalg.eig(A)
        _check_simple(poles)
        return poles.astype(complex), (C @ V) * np.linalg.solve(V, B.astype(V.dtype)), D
    if len(system) != 3:
        raise ValueError(
            "system: expected numerator, denominator, direct or A, B, C, D, got "
            f"{len(system)} arguments"
        )
    b, a, d = _coefficients(*system)
    poles = np.roots(np.concatenate([[1.0], a])).astype(complex)
    poles = np.concatenate([poles, np.zeros(len(a) - len(poles))])  # roots drops those at zero
    _check_simple(poles)
    apart = poles[:, None] - poles + np.eye(len(a))
    return poles, np.polyval(b, poles) / np.prod(apart, axis=1), d


def from_modal(poles: Any, residues: Any, direct: Any) -> Coefficients:
    """Coefficients from poles and residues [N]; real where these come in conjugate pairs.

    Returns:
        numerator [N], denominator [N] and direct.

    Raises:
        ValueError: poles and residues of different shapes.

    Source: partial fractions; Kailath, "Linear Systems" (1980), chapter 2.
    """
    poles, residues = np.atleast_1d(poles).astype(complex), np.atleast_1d(residues).astype(complex)
    _check(("poles", poles), ("residues", residues), ("direct", np.asarray(direct)))
    if poles.ndim != 1 or poles.shape != residues.shape:
        raise ValueError(
            f"poles, residues: expected equal shapes [N], got {poles.shape}, {residues.shape}"
        )
    a = np.poly(poles)[1:]
    K = np.array([residues @ poles**k for k in range(len(poles))])
    if np.isrealobj(a) and np.abs(np.imag(K)).max() <= 1e-12 * np.abs(K).max():
        K = np.real(K)
    return numerator(K, a), a, direct


def impulse_response(numerator: Any, denominator: Any, direct: Any, length: int) -> np.ndarray:
    """K_0..K_{length-1} by the recurrence, step by step.

    Raises:
        ValueError: a length below 1.

    Source: https://kexue.fm/archives/10180, the series of equation 8, one step later behind the
    direct term.
    """
    b, a, d = _coefficients(numerator, denominator, direct)
    checks.length(length)
    K = np.zeros(length, np.result_type(a, b))
    state = b.astype(K.dtype)
    for k in range(1, length):
        K[k] = state[0]
        state = np.append(state[1:], 0.0) - state[0] * a
    K[0] = d
    return K


def frequency_response(
    numerator: Any, denominator: Any, direct: Any, frequencies: Any
) -> np.ndarray:
    """H(e^{i omega}), complex [W], at frequencies [W] in radians per sample.

    Source: https://kexue.fm/archives/10180, equation 8 times z, plus the direct term, on the
    unit circle.
    """
    b, a, d = _coefficients(numerator, denominator, direct)
    w = np.exp(-1j * np.asarray(frequencies, float))  # z^-1, whose powers stay bounded
    above = np.polyval(np.append(b[::-1], 0.0), w)
    return d + above / np.polyval(np.append(a[::-1], 1.0), w)


def zeros(numerator: Any, denominator: Any, direct: Any) -> np.ndarray:
    """Roots of direct z^N + ... , where H vanishes: complex, at most [N].

    Source: Kailath, "Linear Systems" (1980), chapter 2.
    """
    b, a, d = _coefficients(numerator, denominator, direct)
    return np.roots(np.concatenate([[d], d * a + b])).astype(complex)


def numerator(K: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The numerator b [N] from K = K_1, K_2, ... (without K_0) and a: (1, a) * K, cut to N terms.

    Source: derived from https://kexue.fm/archives/10180, equation 8: coefficients of both sides
    times the denominator.
    """
    return np.convolve(np.append(1.0, a), K[: len(a)])[: len(a)]


def _markov(A: np.ndarray, B: np.ndarray, C: np.ndarray, count: int) -> np.ndarray:
    """K_1..K_count."""
    K, x = [], B
    for _ in range(count):
        K.append(C @ x)
        x = A @ x
    return np.array(K)


def _check(*named: tuple[str, np.ndarray]) -> None:
    for name, value in named:
        if value.size == 0 or not np.isfinite(value).all():
            raise ValueError(f"{name}: expected finite values, at least one")


def _wide(value: Any) -> np.ndarray:
    value = np.asarray(value)
    return value.astype(np.result_type(value, np.float64))


def _state_space(A: Any, B: Any, C: Any, D: Any) -> StateSpace:
    A, B, C, D = (_wide(part) for part in (A, B, C, D))
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A: expected a square matrix, got shape {A.shape}")
    size = len(A)
    for name, part, column in (("B", B, (size, 1)), ("C", C, (1, size))):
        if part.shape not in ((size,), column):
            raise ValueError(f"{name}: expected shape ({size},) or {column}, got {part.shape}")
    if D.size != 1:
        raise ValueError(f"D: expected one number, got shape {D.shape}")
    _check(("A", A), ("B", B), ("C", C), ("D", D))
    return A, B.ravel(), C.ravel(), D.reshape(())[()]


def _coefficients(numerator: Any, denominator: Any, direct: Any) -> Coefficients:
    b, a, d = (_wide(part) for part in (numerator, denominator, direct))
    for name, part in (("numerator", b), ("denominator", a)):
        if part.ndim != 1 or part.shape != a.shape:
            raise ValueError(
                f"{name}: expected shape [N], that of the other, got {b.shape} and {a.shape}"
            )
    if d.size != 1:
        raise ValueError(f"direct: expected one number, got shape {d.shape}")
    _check(("numerator", b), ("denominator", a), ("direct", d))
    return b, a, d.reshape(())[()]


def _check_minimal(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> None:
    """By what reaches and shows each eigenvector, if those are independent enough to tell.

    Otherwise by the rank of [A - p, B] and of its transpose (Popov, Belevitch, Hautus). Bases like
    the companion's make minimal systems look almost as if they were not: only what is zero to
    rounding is refused.
    """
    poles, V = np.linalg.eig(A)
    if np.linalg.cond(V) < 1e10:
        reach, show = np.abs(np.linalg.solve(V, B.astype(V.dtype))), np.abs(C @ V)
        weak = [part <= 1e-12 * part.max() for part in (reach, show)]
    else:
        weak = [_deficient(A, B, poles), _deficient(A.T, C, poles)]
    for name, zero, verb in (
        ("B", weak[0], "reached by no input"),
        ("C", weak[1], "shown by no output"),
    ):
        if zero.any():
            raise ValueError(
                f"{name}: the system is not minimal, its mode at "
                f"{complex(poles[np.argmax(zero)]):.6g} is {verb}; minimal=False converts it "
                "nevertheless"
            )


def _deficient(A: np.ndarray, column: np.ndarray, poles: np.ndarray) -> np.ndarray:
    """Whether [A - p, column] has a rank below N, for each pole."""
    scale, norm = max(np.linalg.norm(A, 2), 1e-300), np.linalg.norm(column)
    last = column * (0.0 if norm == 0 else scale / norm)
    matrices = [np.column_stack([A - p * np.eye(len(A)), last]) for p in poles]
    least = [np.linalg.svd(matrix, compute_uv=False)[-1] for matrix in matrices]
    return np.array(least) < 1e-14 * scale


def _check_coprime(b: np.ndarray, a: np.ndarray) -> None:
    roots = np.roots(np.concatenate([[1.0], a]))
    roots = np.append(roots, 0.0) if len(roots) < len(a) else roots
    for root in roots:
        size = np.polyval(np.abs(b), max(abs(root), np.finfo(float).tiny))
        if np.abs(np.polyval(b, root)) <= TINY * size:
            raise ValueError(
                "numerator, denominator: the system is not minimal, both vanish at "
                f"z = {complex(root):.6g}; minimal=False converts it nevertheless"
            )


def _check_simple(poles: np.ndarray) -> None:
    apart = np.abs(poles[:, None] - poles) + np.diag(np.full(len(poles), np.inf))
    first = int(np.argmin(apart.min(axis=1)))
    if apart[first].min() <= CLOSE * max(np.abs(poles).max(), np.finfo(float).tiny):
        raise ValueError(
            f"system: expected poles that differ, got {complex(poles[first]):.6g} twice; it has no "
            "modal form"
        )
