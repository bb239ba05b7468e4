"""Conversions between the forms of a system, and reductions to RTFs."""

import jax
import mpmath
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm import dss, hippo, rtf, s4, s4d, s5, transfer
from tests.reference import ssm as reference


def spread(rng, size):
    """A stable real state space whose poles are apart."""
    half = size // 2
    angles = np.pi * (np.arange(half) + rng.uniform(0.2, 0.8, half)) / max(half, 1)
    radii = rng.uniform(0.6, 0.95, half)
    A = np.zeros((size, size))
    for i in range(half):
        c, s = radii[i] * np.cos(angles[i]), radii[i] * np.sin(angles[i])
        A[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, -s], [s, c]]
    if size % 2:
        A[-1, -1] = rng.uniform(-0.9, 0.9)
    Q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return Q @ A @ Q.T, rng.normal(size=size), rng.normal(size=size), rng.normal()


def powers(A, B, C, D, length):
    return np.array([D] + [C @ np.linalg.matrix_power(A, k) @ B for k in range(length - 1)])


@given(seed=st.integers(0, 2**16), size=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_round_trips(seed, size):
    system = spread(np.random.default_rng(seed), size)
    exact = powers(*system, 60)
    scale = np.abs(exact).max()
    b, a, d = transfer.to_transfer_function(*system)
    np.testing.assert_allclose(transfer.impulse_response(b, a, d, 60), exact, atol=1e-10 * scale)
    for form in transfer.FORMS:
        again = transfer.to_state_space(b, a, d, form)
        np.testing.assert_allclose(powers(*again, 60), exact, atol=1e-10 * scale)
        back = transfer.to_transfer_function(*again)
        for ours, other in zip(back, (b, a, d), strict=True):
            np.testing.assert_allclose(ours, other, atol=1e-9 * max(1.0, np.abs(b).max()))
    for given_as in (system, (b, a, d)):
        poles, residues, direct = transfer.to_modal(*given_as)
        modal = [direct] + [(residues @ poles**k).real for k in range(59)]
        np.testing.assert_allclose(modal, exact, atol=1e-10 * scale)
        back = transfer.from_modal(poles, residues, direct)
        assert all(np.isrealobj(part) for part in back)
        for ours, other in zip(back, (b, a, d), strict=True):
            np.testing.assert_allclose(ours, other, atol=1e-9 * max(1.0, np.abs(b).max()))


def test_the_two_characteristic_polynomials_of_the_post():
    A, B, C, D = spread(np.random.default_rng(0), 6)
    b, a, _ = transfer.to_transfer_function(A, B, C, D)
    np.testing.assert_allclose(a, np.poly(A)[1:], atol=1e-13)
    np.testing.assert_allclose(b, (np.poly(A - np.outer(B, C)) - np.poly(A))[1:], atol=1e-12)
    companion, B, C, _ = transfer.to_state_space(b, a, D)
    np.testing.assert_array_equal(companion, reference.companion(a))
    assert B.tolist() == [1.0] + 5 * [0.0] and C is not b and np.array_equal(C, b)


def test_against_scipy_and_mpmath():
    A, B, C, D = spread(np.random.default_rng(1), 5)
    b, a, d = transfer.to_transfer_function(A, B[:, None], C[None], np.array([[D]]))
    numerator, denominator = scipy.signal.ss2tf(A, B[:, None], C[None], np.array([[D]]))
    np.testing.assert_allclose(np.append(1.0, a), denominator, atol=1e-12)
    np.testing.assert_allclose(np.append(d, d * a + b), numerator[0], atol=1e-12)
    omega, response = scipy.signal.freqz(numerator[0], denominator, 50)
    np.testing.assert_allclose(transfer.frequency_response(b, a, d, omega), response, atol=1e-12)
    with mpmath.workdps(40):
        z = mpmath.expj(1.3)
        resolvent = mpmath.lu_solve(z * mpmath.eye(5) - mpmath.matrix(A), mpmath.matrix(B))
        exact = complex(D + mpmath.fdot(C, resolvent))
    assert abs(transfer.frequency_response(b, a, d, [1.3])[0] - exact) < 1e-13
    zeros, poles, _ = scipy.signal.tf2zpk(numerator[0], denominator)
    order = lambda x: np.sort_complex(np.round(x, 9))  # noqa: E731
    np.testing.assert_allclose(order(transfer.zeros(b, a, d)), order(zeros), atol=1e-8)
    modal, residues, _ = transfer.to_modal(b, a, d)
    np.testing.assert_allclose(order(modal), order(poles), atol=1e-8)
    # SciPy's fractions are r / (1 - p z^-1) of the numerator without its delay.
    r, p, _ = scipy.signal.residuez(b, np.append(1.0, a))
    index = np.argmin(np.abs(modal[:, None] - p), axis=1)
    np.testing.assert_allclose(residues, r[index], atol=1e-10)


def test_minimal_systems_in_bad_bases_are_not_refused():
    rng = np.random.default_rng(0)
    for size in (10, 12):
        for _ in range(30):
            poles, C = rng.uniform(-0.95, 0.95, size), rng.normal(size=size)
            b, a, d = transfer.to_transfer_function(np.diag(poles), np.ones(size), C, 1.0)
            for form in transfer.FORMS:
                back = transfer.to_transfer_function(*transfer.to_state_space(b, a, d, form))
                np.testing.assert_allclose(back[0], b, atol=1e-8 * max(1.0, np.abs(b).max()))


def test_pure_delays():
    b, a = np.eye(1, 4, 3)[0], np.zeros(4)
    np.testing.assert_array_equal(transfer.impulse_response(b, a, 0.5, 6), [0.5, 0, 0, 0, 1, 0])
    A, B, C, D = transfer.to_state_space(b, a, 0.5)
    back = transfer.to_transfer_function(A, B, C, D)
    np.testing.assert_allclose(back[0], b, atol=1e-15)


def test_a_state_that_is_read_after_the_input_is_given_by_its_step_before():
    """C A for C and D + C B for D, as `to_transfer_function` says."""
    rng = np.random.default_rng(5)
    A, (B, C) = 0.4 * rng.normal(size=(4, 4)), rng.normal(size=(2, 4))
    kernel = [C @ np.linalg.matrix_power(A, power) @ B for power in range(12)]
    found = transfer.impulse_response(*transfer.to_transfer_function(A, B, C @ A, C @ B), 12)
    np.testing.assert_allclose(found, kernel, atol=1e-12)


def test_what_is_not_minimal_or_not_simple_is_refused():
    A, one = np.diag([0.5, 0.3]), np.ones(2)
    for B, C, message in (
        (np.array([1.0, 0.0]), one, "B: .*mode at 0.3.* is reached by no input"),
        (one, np.array([0.0, 1.0]), "C: .*mode at 0.5.* is shown by no output"),
        (np.zeros(2), one, "B: the system is not minimal"),
    ):
        with pytest.raises(ValueError, match=message):
            transfer.to_transfer_function(A, B, C, 0.0)
        b, a, d = transfer.to_transfer_function(A, B, C, 0.0, minimal=False)
        K = powers(A, B, C, 0.0, 9)
        np.testing.assert_allclose(transfer.impulse_response(b, a, d, 9), K, atol=1e-15)
        with pytest.raises(ValueError, match="numerator, denominator: the system is not minimal"):
            transfer.to_state_space(b, a, d)
        again = transfer.to_state_space(b, a, d, minimal=False)
        np.testing.assert_allclose(powers(*again, 9), K, atol=1e-15)
    for a in ([-1.0, 0.25], [0.0, 0.0]):
        with pytest.raises(ValueError, match="expected poles that differ"):
            transfer.to_modal([1.0, 0.3], a, 0.0)


to_tf = transfer.to_transfer_function


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_tf(np.ones((2, 3)), [1, 1], [1, 1], 0), "A: expected a square"),
        (lambda: to_tf(np.eye(2), [1], [1, 1], 0), r"B: expected shape \(2,\)"),
        (lambda: to_tf(np.eye(2), [1, 1], np.eye(2), 0), "C: expected shape"),
        (lambda: to_tf(np.eye(1), [1], [1], [0, 1]), "D: expected one number"),
        (lambda: to_tf([[np.nan]], [1], [1], 0), "A: expected finite"),
        (lambda: transfer.to_state_space([1.0], [0.5, 0.1], 0), "numerator: expected shape"),
        (lambda: transfer.to_state_space([1.0], [0.5], 0, "jordan"), "form: expected one of"),
        (lambda: transfer.to_modal([1.0], [0.5]), "system: .* got 2 arguments"),
        (lambda: transfer.from_modal([0.5], [1.0, 2.0], 0), "poles, residues: expected equal"),
        (lambda: transfer.impulse_response([1.0], [0.5], 0, 0), "length: expected at least 1"),
        (lambda: transfer.state_space(np.eye(2)), "system: .* got ndarray"),
        (lambda: transfer.reduce(np.ones(9), 5), "order: expected 1 to half"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def systems():
    """One small system of each kind, with its kernel and direct term."""
    key = jax.random.key(0)
    legs = hippo.dplr("legs", 6)
    rows = [np.broadcast_to(part, (2, *part.shape)) for part in (legs.Lambda, legs.P, legs.B)]
    C = np.random.default_rng(0).normal(size=(2, 6)) @ legs.V
    dt = np.array([0.3, 1.0])
    yield s4, s4.from_dplr(*rows, C, np.ones(2), dt)
    yield s4, s4.from_dplr(*rows, C, np.ones(2), dt, 40)
    config = s4d.Config(2, 3, dt_min=0.3, dt_max=1.0)
    yield s4d, s4d.system(s4d.init(key, config), config)
    config = dss.Config(2, 40, 3, normalization="softmax", dt_min=0.3, dt_max=1.0)
    yield dss, dss.system(dss.init(key, config), config)
    config = s5.Config(2, 3, dt_min=0.3, dt_max=1.0)
    yield s5, s5.system(s5.init(key, config), config)
    config = rtf.Config(2, 40, 5, init="montel")
    yield rtf, rtf.system(rtf.init(key, config), config)


@pytest.mark.sample(1)
@pytest.mark.parametrize("index", range(6))
def test_small_systems_of_every_kind_are_exact_rtfs(index, x64):
    module, one = list(systems())[index]
    K = np.array(module.kernel(one, 40))
    if module is s5:
        K[np.arange(2), np.arange(2), 0] += one.D
    elif module is not rtf:
        K[:, 0] += one.D
    np.testing.assert_allclose(transfer.impulse_responses(one, 40), K, atol=1e-12)
    found = transfer.to_rtf(one, length=40)
    assert found.error.max() < 1e-9
    kernel = np.asarray(rtf.kernel(found.system, 40)).reshape(K.shape)
    np.testing.assert_allclose(kernel, K, atol=1e-9 * np.abs(K).max())


@pytest.mark.slow
@pytest.mark.parametrize("method", transfer.METHODS)
def test_reductions_report_their_error(method):
    config = s4d.Config(2, 32, dt_min=0.05, dt_max=0.2)
    one = s4d.system(s4d.init(jax.random.key(0), config), config)
    K = transfer.impulse_responses(one, 200)
    for size in (None, 8) if method == "hankel" else (None,):
        found = transfer.to_rtf(one, size, length=200, method=method)
        kernel = np.asarray(rtf.kernel(found.system, 200))
        error = np.abs(kernel - K).max(axis=1) / np.abs(K).max(axis=1)
        np.testing.assert_allclose(error, found.error, rtol=0.1, atol=1e-6)
        assert found.order.max() == found.system.numerator.shape[1]


def test_a_size_that_floats_do_not_hold_is_refused_also_at_the_systems_own_order():
    config = s4d.Config(2, 4, dt_min=0.02, dt_max=0.05)
    one = s4d.system(s4d.init(jax.random.key(0), config), config)
    for size in (8, 100):
        with pytest.raises(ValueError, match=rf"reduction of row \d to order {size} has no stable"):
            transfer.to_rtf(one, size, length=256)
    config = s4d.Config(1, 2, dt_min=0.5, dt_max=1.0)
    one = s4d.system(s4d.init(jax.random.key(0), config), config)
    for size in (4, 9):  # one above its own gives its own
        found = transfer.to_rtf(one, size, length=64)
        assert found.order == [4] and found.error.max() < 1e-6
        assert np.abs(rtf.poles(found.system)).max() < 1.0


def test_poles_are_stable_as_they_are_stored():
    """Rounded to single precision, those of the smallest error were not for some of these."""
    config, found = s4d.Config(3, 4), 0
    for seed in range(5):
        one = s4d.system(s4d.init(jax.random.key(seed), config), config)
        try:
            system = transfer.to_rtf(one, length=96).system
        except ValueError as error:
            assert "has no stable poles" in str(error)
            continue
        assert np.abs(rtf.poles(system)).max() < 1.0
        rtf.prepare(system)
        found += 1
    assert found >= 3


def test_the_hankel_reduction_finds_the_order_of_what_has_one():
    b, a, d = transfer.to_transfer_function(*spread(np.random.default_rng(2), 4))
    K = transfer.impulse_response(b, a, d, 100)
    for method in transfer.METHODS:
        for ours, exact in zip(transfer.reduce(K, 4, method), (b, a), strict=True):
            np.testing.assert_allclose(ours, exact, atol=1e-8)
        for (b_, a_), order in zip(transfer.reductions(K, [2, 4], method), (2, 4), strict=True):
            alone = transfer.reduce(K, order, method)
            np.testing.assert_array_equal((b_, a_), alone)
    above, below = transfer.reduce(np.zeros(9), 2)
    assert not above.any() and not below.any()
    with pytest.raises(ValueError, match="method: expected one of hankel, pade, got 'foo'"):
        transfer.reduce(K, 4, "foo")
    with pytest.raises(ValueError, match="size: expected 1 to 9"):
        transfer.to_rtf(next(systems())[1], 10, length=20)


@pytest.mark.parametrize("dt", [0.01, 0.1, 0.5])
def test_the_recurrence_of_a_reduction_is_off_by_some_times_its_error(dt):
    """As the tutorial says; next to 1 poles cost digits, and every step rounds."""
    parts, C = hippo.dplr("legs", 8), np.random.default_rng(0).normal(size=8)
    legs = s4.from_dplr(
        parts.Lambda[None], parts.P[None], parts.B[None], (C @ parts.V)[None], D=[0.0], dt=[dt]
    )
    found = transfer.to_rtf(legs, length=128)
    u = jax.random.normal(jax.random.key(3), (128, 1, 1))
    prepared = rtf.prepare(found.system)
    step = lambda state, value: rtf.step(prepared, state, value)  # noqa: E731
    _, y = jax.jit(lambda u: jax.lax.scan(step, rtf.init_state(found.system, 1), u))(u)
    expected = s4.apply(legs, u[:, 0][None])[0]
    off = float(np.abs(y[:, 0] - expected).max() / np.abs(expected).max())
    assert off < 5 * found.error[0] + 2e-6
