"""S4 against dense systems in double precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ssm as reference

from ssm import hippo, s4

H, B = 3, 2
kernel = jax.jit(s4.kernel, static_argnums=1)
apply, prefill, step = jax.jit(s4.apply), jax.jit(s4.prefill), jax.jit(s4.step)
DT = np.array([1e-2, 0.1, 1.0])
D = np.array([0.3, -1.0, 0.0])


def numbers(kind):
    """Lambda, P, B, C of H channels: three of HiPPO, and one without any symmetry."""
    rng = np.random.default_rng(7)
    if kind == "any":
        shape = (H, 5)
        draw = lambda *s: rng.normal(size=s) + 1j * rng.normal(size=s)  # noqa: E731
        Lambda = -rng.uniform(0.1, 1.0, shape) + 1j * rng.normal(size=shape) * 5.0
        return Lambda, draw(H, 2, 5), draw(*shape), draw(*shape)
    n = 7 if kind == "fout" else 8
    system = hippo.dplr(kind, n)
    C = rng.normal(size=(H, n)) @ system.V
    shared = (system.Lambda, system.P, system.B)
    return (*(np.broadcast_to(part, (H, *part.shape)) for part in shared), C)


KINDS = ("legs", "legt", "fout", "any")


def dense(parts, h):
    Lambda, P, inputs, outputs = (part[h] for part in parts)
    return np.diag(Lambda) - P.T @ P.conj(), inputs, outputs, D[h], DT[h]


def responses(parts, length):
    impulse = np.eye(1, length)[0]
    rows = [dense(parts, h) for h in range(H)]
    return np.array([reference.dense_output(*r[:3], 0.0, r[4], impulse)[0] for r in rows])


def near(value, expected, bound):
    np.testing.assert_allclose(value, expected, atol=bound * np.max(np.abs(expected)), rtol=0)


@pytest.mark.sample(5)
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("length", [1, 2, 33, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_impulse_responses(kind, length, stored, x64):
    parts = numbers(kind)
    one = s4.from_dplr(*parts, D, DT, length if stored else None)
    assert (one.conjugate, one.real) == (kind != "any", int(kind == "fout"))
    near(kernel(one, length), responses(parts, length), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_kernel_is_the_beginning_of_the_stored_one(kind, x64):
    parts = numbers(kind)
    one = s4.from_dplr(*parts, D, DT, 40)
    near(kernel(one, 7), responses(parts, 7), 1e-10)
    back = s4.exact(one)
    near(kernel(back, 90), responses(parts, 90), 1e-9)


@pytest.mark.sample(1)
@pytest.mark.parametrize("length", [1000, 4095])
@pytest.mark.parametrize("measure", s4.MEASURES)
def test_long_kernels_in_single_precision(measure, length):
    """Also where nothing but the low rank damps the poles: without care two digits were left."""
    size = 65 if measure == "fout" else 64
    legs = hippo.dplr(measure, size)
    C = np.random.default_rng(0).normal(size=(H, size)) @ legs.V
    parts = [np.broadcast_to(p, (H, *p.shape)) for p in (legs.Lambda, legs.P, legs.B)]
    dt = np.array([1e-3, 1e-2, 0.1])
    with jax.enable_x64(True):
        double = s4.from_dplr(*parts, C, np.zeros(H), dt, length)
        one = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), double)
        # The numbers as rounded; dense powers in double precision, by chunks.
        wide = jax.tree.map(lambda x: x.astype(float), one)
        impulse = jnp.zeros((1, length, H)).at[:, 0].set(1.0)
        expected = jax.jit(s4.prefill)(wide, impulse, s4.init_state(wide, 1))[1][0].T
    near(kernel(one, length), np.asarray(expected), 5e-6 if measure == "fout" else 3e-6)


def test_two_dense_solves_never_meet_in_one_program():
    """On CPUs two batched LU decompositions at once can wait for each other's threads forever."""
    one = s4.from_dplr(*numbers("any"), D, DT, 16)
    u, state = jnp.zeros((B, 9, H)), s4.init_state(one, B)
    views = (
        lambda s: s4.kernel(s, 16),
        lambda s: s4.prefill(s, u, state)[1],
        lambda s: s4.prepare(s).C,
        jax.grad(lambda s: jnp.sum(s4.prefill(s, u, state)[1])),
    )
    counts = [str(jax.make_jaxpr(view)(one)).count("= lu ") for view in views]
    assert counts == [0, 1, 1, 1]


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
def test_convolution_recurrence_and_the_dense_loop_agree(kind, x64):
    parts, length = numbers(kind), 12
    u = np.random.default_rng(0).normal(size=(B, length, H))
    one = s4.from_dplr(*parts, D, DT, length)
    y = apply(one, u)
    expected = [
        [reference.dense_output(*dense(parts, h), u[i, :, h])[0] for h in range(H)]
        for i in range(B)
    ]
    near(y, np.moveaxis(np.array(expected), 1, 2), 1e-10)
    state, first = prefill(one, u[:, :5], s4.init_state(one, B))
    _, rest = prefill(one, u[:, 5:], state)
    near(jnp.concatenate([first, rest], axis=1), np.asarray(y), 1e-10)
    lengths = np.array([0, 3])
    short, _ = prefill(one, u, s4.init_state(one, B), lengths)
    np.testing.assert_array_equal(short[0][0], 0.0)
    third, _ = prefill(one, u[:, :3], s4.init_state(one, B))
    near(short[0][1], np.asarray(third[0][1]), 1e-14)
    prepared, outputs, state = s4.prepare(one), [], s4.init_state(one, B)
    for value in np.moveaxis(u, 1, 0):
        state, output = step(prepared, state, value)
        outputs.append(output)
    near(jnp.stack(outputs, axis=1), np.asarray(y), 1e-10)


def test_gradients_at_a_pole_at_zero_are_finite(x64):
    one = s4.from_dplr(*numbers("fout"), D, DT, 16)
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(s4.kernel(s, 16) ** 2)))(one)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Lambda": np.zeros(3)}, r"Lambda: expected shape \[H, N\], got \(3,\)"),
        ({"P": np.zeros((H, 8))}, r"P: expected shape \[H, R, N\], got \(3, 8\)"),
        ({"P": np.zeros((H, 1, 7))}, r"P: expected shape \(3, 1, 8\), got \(3, 1, 7\)"),
        ({"dt": -DT}, "dt: expected positive steps"),
        ({"B": np.full((H, 8), np.nan)}, "B: expected finite"),
        ({"length": 0}, "length: expected at least 1, got 0"),
    ],
)
def test_bad_systems_are_refused_by_name(change, message):
    names = ("Lambda", "P", "B", "C")
    arguments = dict(zip(names, numbers("legs"), strict=True)) | {"D": D, "dt": DT}
    with pytest.raises(ValueError, match=message):
        s4.from_dplr(**(arguments | change))


def test_a_mode_that_never_changes_has_an_exact_kernel_but_no_truncated_one(x64):
    zeros, ones = np.zeros((1, 2)), np.ones((1, 2))
    one = s4.from_dplr(zeros, zeros[:, None], ones, ones, [0.0], [0.1])
    np.testing.assert_allclose(kernel(one, 40), 0.2, rtol=1e-14)
    with pytest.raises(
        ValueError, match=r"length: 1 - a\^8 is singular to rounding.* or none for exact kernels"
    ):
        s4.from_dplr(zeros, zeros[:, None], ones, ones, [0.0], [0.1], 8)
    forced = dataclasses.replace(one, length=8)
    with pytest.raises(ValueError, match=r"length: 1 - a\^8 is singular, it has no exact C"):
        s4.prepare(forced)
    # Two modes at rest that one rank couples: A is singular, and no entry of it is zero.
    rng = np.random.default_rng(1)
    P, B, C = (rng.normal(size=(1, 1, 2)) + 0j for _ in range(3))
    one = s4.from_dplr(zeros, P, B[0], C[0], [0.0], [0.1])
    A = -np.outer(P[0, 0], P[0, 0])
    expected, _ = reference.dense_output(A, B[0, 0], C[0, 0], 0.0, 0.1, np.eye(1, 20)[0])
    near(kernel(one, 20), expected[None], 1e-12)
    with pytest.raises(ValueError, match=r"length: 1 - a\^20 is singular to rounding"):
        s4.from_dplr(zeros, P, B[0], C[0], [0.0], [0.1], 20)


@pytest.mark.parametrize("decay", [0.0, 1e-8, 1e-4, 1e-2])
def test_modes_that_come_back_after_the_length_keep_their_kernel(decay, precision):
    """a^8 is next to 1: C (1 - a^8) would have lost what C says."""
    Lambda = np.array([[-decay + 1j, -decay - 1j]])
    parts = (Lambda, np.zeros((1, 0, 2)), np.ones((1, 2)), np.ones((1, 2)))
    dt = np.array([2.0 * np.tan(np.pi / 8)])
    one = s4.from_dplr(*parts, [0.0], dt)
    a = (1 + 0.5 * dt * Lambda) / (1 - 0.5 * dt * Lambda)
    b = dt / (1 - 0.5 * dt * Lambda)
    for length in (8, 160):
        expected = np.sum(b[..., None] * a[..., None] ** np.arange(length), axis=1).real
        near(kernel(one, length), expected, 1e-11 if precision == "float64" else 5e-5)
    if decay in (0.0, 1e-8) and (precision == "float32" or not decay):
        with pytest.raises(ValueError, match=r"length: 1 - a\^8 is singular to rounding"):
            s4.from_dplr(*parts, [0.0], dt, 8)
    else:
        assert s4.from_dplr(*parts, [0.0], dt, 7).length == 7


def test_fast_and_slow_modes_together_are_no_reason_to_refuse():
    parts = (np.array([[-1e-3, -1e5]]), np.zeros((1, 0, 2)), np.ones((1, 2)), np.ones((1, 2)))
    one = s4.from_dplr(*parts, [0.0], [1e-4], 1)
    a = 1e-4 / (1 + 0.5e-4 * np.array([1e-3, 1e5]))
    near(kernel(one, 1), [[a.sum()]], 1e-6)


def test_whole_numbers_are_numbers():
    one = s4.from_dplr([[-1, -2]], [[[1, 1]]], [[1, 1]], [[1, 1]], [0], [1])
    A = -np.diag([1.0, 2.0]) - 1.0
    expected, _ = reference.dense_output(A, np.ones(2), np.ones(2), 0.0, 1.0, np.eye(1, 9)[0])
    near(kernel(one, 9), expected[None], 2e-6)


@pytest.mark.sample(3)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("measure", s4.MEASURES)
def test_any_output_of_conjugate_states_is_stored_by_halves(measure, scale):
    """Re(C x) needs of C only what is conjugate too; how small it is does not matter."""
    rng = np.random.default_rng(0)
    one = hippo.dplr(measure, 16 + (measure == "fout"))
    size = len(one.Lambda)
    C = rng.normal(size=(2, size)) + 1j * rng.normal(size=(2, size))
    C = C * [[1.0], [scale]]
    parts = [np.broadcast_to(p, (2, *p.shape)) for p in (one.Lambda, one.P, one.B)]
    A = np.diag(one.Lambda) - one.P.T @ one.P.conj()
    impulse = np.eye(1, 200)[0]
    expected = [reference.dense_output(A, one.B, row, 0.0, 0.05, impulse)[0] for row in C]
    for length in (None, 200):
        narrow = [np.asarray(p, np.complex64) for p in (*parts, C)]
        stored = s4.from_dplr(*narrow, np.zeros(2), np.full(2, 0.05), length)
        assert stored.conjugate
        for row, exact in zip(kernel(stored, 200), expected, strict=True):
            near(row, exact, 3e-6)


@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-8, 1e-4])
@pytest.mark.parametrize("length", [None, 200])
def test_poles_at_a_frequency_that_only_the_low_rank_damps(length, off, x64):
    """Also where modes do not come in conjugate pairs, or where two are equal."""
    rng = np.random.default_rng(1)
    w = 20.0 * np.tan(np.pi * np.array([1, 3]) / 200) + off
    draw = lambda *s: rng.normal(size=s) + 1j * rng.normal(size=s)  # noqa: E731
    for Lambda, rank in ((1j * w, 1), (1j * w[[0, 0]], 2), (1j * w[[0, 0]] * [1, -1], 1)):
        P, inputs, outputs = draw(rank, 2), draw(2), draw(2)
        one = s4.from_dplr(Lambda[None], P[None], inputs[None], outputs[None], [0.0], [0.1], length)
        A = np.diag(Lambda) - P.T @ P.conj()
        expected, _ = reference.dense_output(A, inputs, outputs, 0.0, 0.1, np.eye(1, 200)[0])
        near(kernel(one, 200), expected[None], 1e-9)


@pytest.mark.parametrize("length", [128, 1000])
def test_exact_kernels_of_slow_systems_in_single_precision(length):
    """Powers of a near 1 are computed by what they change."""
    fout = hippo.dplr("fout", 65)
    C = np.random.default_rng(0).normal(size=65) @ fout.V
    row = [part[None] for part in (fout.Lambda, fout.P, fout.B, C)]
    one = s4.from_dplr(*row, [0.0], [1e-4])
    A = np.diag(fout.Lambda) - fout.P.T @ fout.P.conj()
    expected, _ = reference.dense_output(A, fout.B, C, 0.0, 1e-4, np.eye(1, length)[0])
    near(kernel(one, length), expected[None], 3e-6)


def test_bad_lengths_signals_and_configurations_are_refused_by_name():
    one = s4.from_dplr(*numbers("legs"), D, DT, 8)
    with pytest.raises(ValueError, match="length: expected at least 1 and at most the stored 8"):
        s4.kernel(one, 9)
    with pytest.raises(ValueError, match="length: expected at least 1"):
        s4.kernel(one, 0)
    with pytest.raises(ValueError, match="u: expected real"):
        s4.apply(one, np.zeros((4, H), complex))
    with pytest.raises(ValueError, match=r"state: expected shape \(1, 3, 4\)"):
        s4.step(s4.prepare(one), s4.init_state(one, 2), jnp.zeros((1, H)))
    with pytest.raises(ValueError, match="size: legs needs one that is even"):
        s4.Config(1, 8, 5)
    with pytest.raises(ValueError, match="size: fout needs one that is odd"):
        s4.Config(1, 8, 4, measure="fout")
    with pytest.raises(ValueError, match="measure: expected one of legs, legt, fout"):
        s4.Config(1, 8, 4, measure="lagt")
