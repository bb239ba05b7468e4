"""Score identity distillation: losses and gradients, identities, closed forms, bad input."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import distillation, edm, exact, process, schedules
from tests.reference import diffusion as reference

SHAPE = (3, 2, 2, 1)


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def denoisers(xp):
    """Teacher and fake, nonlinear, that mix neighbours, in NumPy or JAX."""

    def make(gain, twist):
        def denoiser(y, sigma):
            s = xp.reshape(xp.asarray(sigma), (-1,) + (1,) * (y.ndim - 1))
            near = xp.roll(y, 1, 1)
            return gain * y / (1 + s**2) + twist * xp.tanh(near + 0.3 * y * near)

        return denoiser

    return make(0.9, 0.2), make(0.7, -0.3)


def problem():
    x, noise, sigma = draw(SHAPE), draw(SHAPE, 1), np.array([0.2, 1.0, 3.0])
    return x, sigma, noise


def total(x, sigma, noise, alpha):
    """The public loss, summed over the batch."""
    teacher, fake = denoisers(jnp)
    arrays = (jnp.asarray(sigma), jnp.asarray(noise))
    return jnp.sum(distillation.generator_loss(x, teacher, fake, *arrays, alpha))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_loss_is_its_definition(alpha, x64):
    x, sigma, noise = problem()
    teacher, fake = denoisers(jnp)
    arrays = [jnp.asarray(a) for a in (sigma, noise)]
    found = distillation.generator_loss(jnp.asarray(x), teacher, fake, *arrays, alpha)
    loss, weight = reference.identity_terms(x, *denoisers(np), sigma, noise, alpha)
    np.testing.assert_allclose(found, weight * loss, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
def test_gradient_is_that_of_finite_differences(alpha, x64):
    """The weight stands still, the denoisers' inputs do not."""
    x, sigma, noise = problem()
    _, weight = reference.identity_terms(x, *denoisers(np), sigma, noise, alpha)
    expected, h = np.zeros(SHAPE), 1e-6
    for place in np.ndindex(SHAPE):
        ends = []
        for sign in (1.0, -1.0):
            moved = x.copy()
            moved[place] += sign * h
            loss, _ = reference.identity_terms(moved, *denoisers(np), sigma, noise, alpha)
            ends.append(np.sum(weight * loss))
        expected[place] = (ends[0] - ends[1]) / (2 * h)
    found = jax.grad(total)(jnp.asarray(x), sigma, noise, alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)

    def detached(x):  # the commonest mistake: scores whose inputs stand still
        teacher, fake = denoisers(jnp)
        stopped = [lambda y, s, d=d: d(jax.lax.stop_gradient(y), s) for d in (teacher, fake)]
        arrays = (jnp.asarray(sigma), jnp.asarray(noise))
        return jnp.sum(distillation.generator_loss(x, *stopped, *arrays, alpha))

    wrong = jax.grad(detached)(jnp.asarray(x))
    assert float(jnp.abs(wrong - expected).max()) > 0.05


def test_naive_loss_and_divergence_are_squares(x64):
    x, sigma, noise = problem()
    teacher, fake = denoisers(jnp)
    arrays = (jnp.asarray(x), teacher, fake, jnp.asarray(sigma), jnp.asarray(noise))
    second, weight = reference.identity_terms(x, *denoisers(np), sigma, noise, 0.0)
    less, _ = reference.identity_terms(x, *denoisers(np), sigma, noise, 1.0)
    np.testing.assert_allclose(distillation.naive_loss(*arrays), weight * (second - less))
    found = distillation.fisher_divergence(*arrays)
    np.testing.assert_allclose(found, (second - less) / sigma**4)


def test_the_post_says_the_same_in_eps(x64):
    """With e = (z - alpha x) / sigma, its losses are those of x times alpha^2 / sigma^2."""
    x, _, noise = problem()
    logsnr = jnp.array([-1.0, 0.5, 2.0])
    sigma = jnp.exp(-logsnr / 2)
    teacher, fake = denoisers(jnp)

    def eps(denoiser):
        def predict(z, logsnr):
            alpha, _ = process.alpha_sigma(process.spread(logsnr, z))
            answer = denoiser(z / alpha, jnp.exp(-logsnr / 2))
            return process.convert(answer, z, logsnr, "x", "eps")

        return predict

    arrays = jnp.asarray(x), eps(teacher), eps(fake), logsnr, jnp.asarray(noise)
    for lam in (0.0, 1.0, 1.2):
        loss, _ = reference.identity_terms(x, *denoisers(np), np.asarray(sigma), noise, lam)
        np.testing.assert_allclose(
            distillation.post_loss(*arrays, lam), loss / np.asarray(sigma) ** 2, rtol=1e-10
        )


LEVEL = 0.8


def places(theta):
    """A law of five points, moved by theta in a way that is not linear."""
    z = jnp.array([-1.5, -0.7, 0.1, 0.9, 1.6])
    return theta[0] * z + theta[1] * jnp.sin(2.0 * z) + theta[2]


def optimal(points):
    """E[x | y] of points under noise of LEVEL: what the fake denoiser has to learn."""

    def denoiser(y, sigma):
        logits = -0.5 * ((y - points) / LEVEL) ** 2
        return jnp.sum(jax.nn.softmax(logits, -1) * points, -1, keepdims=True)

    return denoiser


def teacher(y, sigma):
    return 0.6 * y + 0.2 * jnp.tanh(y)


def noises():
    """Even grid and weights of a standard normal, spectrally exact for smooth functions."""
    n = np.linspace(-9.0, 9.0, 721)
    weight = np.exp(-0.5 * n**2)
    return jnp.asarray(n), jnp.asarray(weight / weight.sum())


def expectation(loss, theta, alpha, fixed):
    """E of an unweighted loss over points and noise; the fake denoiser is that of `fixed`."""
    n, weight = noises()
    x = jnp.repeat(places(theta), len(n))[:, None]
    noise = jnp.tile(n, 5)[:, None]
    sigma = jnp.full(len(x), LEVEL)
    each = loss(x, teacher, optimal(places(fixed)), sigma, noise, *alpha)
    if loss is distillation.generator_loss:
        f = teacher(x + LEVEL * noise, sigma)
        each = each * jax.lax.stop_gradient(jnp.abs(x - f))[:, 0]  # its weight taken out
    return jnp.sum(each * jnp.tile(weight, 5)) / 5


@pytest.mark.slow
def test_half_is_half_of_the_exact_gradient(x64):
    """Through the fake denoiser that is optimal for each generator, by differentiation."""
    theta = jnp.array([0.8, 0.3, 0.25])

    def divergence(theta):
        return expectation(distillation.fisher_divergence, theta, (), theta) * LEVEL**4

    whole = jax.grad(divergence)(theta)
    half = jax.grad(lambda t: expectation(distillation.generator_loss, t, (0.5,), theta))(theta)
    np.testing.assert_allclose(2.0 * half, whole, rtol=1e-8, atol=1e-10)
    other = jax.grad(lambda t: expectation(distillation.generator_loss, t, (1.0,), theta))(theta)
    assert float(jnp.abs(2.0 * other - whole).max()) > 1e-2


def test_the_third_identity_turns_one_loss_into_the_other(x64):
    """E L1 = E L2 where the fake denoiser is optimal, for any teacher."""
    theta = jnp.array([0.8, 0.3, 0.25])
    first = expectation(distillation.fisher_divergence, theta, (), theta) * LEVEL**4
    second = expectation(distillation.generator_loss, theta, (0.0,), theta)
    np.testing.assert_allclose(first, second, rtol=1e-10)
    elsewhere = expectation(distillation.generator_loss, theta, (0.0,), theta + 0.1)
    assert abs(float(elsewhere - first)) > 1e-3


def test_fake_loss_is_edms_and_leaves_the_generator_alone(x64):
    x, sigma, noise = (jnp.asarray(a) for a in problem())
    _, fake = denoisers(jnp)
    found = distillation.fake_score_loss(x, fake, sigma, noise, 0.7)
    y = np.asarray(x) + np.asarray(sigma)[:, None, None, None] * np.asarray(noise)
    error = np.sum((denoisers(np)[1](y, np.asarray(sigma)) - np.asarray(x)) ** 2, (1, 2, 3))
    weight = (np.asarray(sigma) ** 2 + 0.49) / (np.asarray(sigma) * 0.7) ** 2
    np.testing.assert_allclose(found, weight * error, rtol=1e-12)
    gradient = jax.grad(lambda x: distillation.fake_score_loss(x, fake, sigma, noise).sum())(x)
    assert not np.asarray(gradient).any()


def test_levels_of_the_generator_are_even_in_edms_steps():
    found = distillation.generator_sigma(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(found, [0.002, 24.4], rtol=2e-3)
    sigmas = schedules.edm_sigmas(101)[:101]
    whole = distillation.generator_sigma(jnp.linspace(1.0, 0.0, 101), t_max=1.0)
    np.testing.assert_allclose(whole, sigmas, rtol=1e-4)


def test_denoisers_of_log_snr_are_those_of_sigma(x64):
    law = exact.mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.2, 0.4])
    y, sigma = draw((5, 2)), np.array([0.01, 0.3, 1.0, 5.0, 60.0])
    parts = [np.asarray(part) for part in (law.weights, law.means, law.deviations)]
    expected = np.concatenate(
        [reference.denoiser_edm(y[i : i + 1], sigma[i], *parts) for i in range(5)]
    )
    for prediction in ("x", "v"):
        converted = process.edm_denoiser(exact.denoiser(law, prediction), prediction)
        found = converted(jnp.asarray(y), jnp.asarray(sigma))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)

    def network(z, logsnr):
        return jnp.tanh(z) + 0.01 * logsnr[:, None]

    preconditioned = edm.precondition(lambda z, noise: -network(z, -8.0 * noise), sigma_data=1.0)
    found = process.edm_denoiser(network, "v")(jnp.asarray(y), jnp.asarray(sigma))
    np.testing.assert_allclose(
        found, preconditioned(jnp.asarray(y), jnp.asarray(sigma)), rtol=1e-9, atol=1e-11
    )


def test_denoisers_of_sigma_are_those_of_log_snr(x64):
    law = exact.gaussian(np.zeros(2), np.diag([0.5, 2.0]))
    z, logsnr = jnp.asarray(draw((3, 2))), jnp.array([-3.0, 0.0, 4.0])
    there = process.edm_denoiser(law.denoise, "x")
    back = process.logsnr_denoiser(there)
    np.testing.assert_allclose(back(z, logsnr), law.denoise(z, logsnr), rtol=1e-12)
    np.testing.assert_allclose(back(z, 1.5), law.denoise(z, 1.5), rtol=1e-12)
    told = process.logsnr_denoiser(process.edm_denoiser(lambda z, logsnr, c: c * z, "x"))
    np.testing.assert_allclose(told(z, logsnr, 3.0), 3.0 * z, rtol=1e-12)


def shrink(y, sigma):
    return y / (1.0 + sigma[:, None])


def test_a_generator_of_one_step_is_the_denoiser_of_pure_noise():
    z = jnp.asarray(draw((4, 3)), jnp.float32)
    np.testing.assert_allclose(distillation.generate(shrink, z), 2.5 * z / 3.5, rtol=1e-6)
    one = distillation.generate_steps(shrink, z, [2.5], jax.random.key(0))
    np.testing.assert_allclose(one, distillation.generate(shrink, z), rtol=1e-6)


def test_a_few_steps_add_noise_between():
    z, key = jnp.asarray(draw((4, 3)), jnp.float32), jax.random.key(1)
    levels = [2.5, 1.0, 0.2]
    x = [distillation.generate_steps(shrink, z, levels, key, last) for last in range(3)]
    for step in (1, 2):
        noise = jax.random.normal(jax.random.fold_in(key, step), z.shape)
        expected = (x[step - 1] + levels[step] * noise) / (1.0 + levels[step])
        np.testing.assert_allclose(x[step], expected, rtol=1e-5, atol=1e-6)
    mixed = distillation.generate_steps(shrink, z, levels, key, jnp.array([2, 0, 1, 2]))
    for example, step in enumerate((2, 0, 1, 2)):
        np.testing.assert_array_equal(mixed[example], x[step][example])
    np.testing.assert_array_equal(distillation.generate_steps(shrink, z, levels, key), x[2])
    slope = jax.grad(lambda z: distillation.generate_steps(shrink, z, levels, key).sum())(z)
    assert not np.asarray(slope).any()  # into the last step alone


@pytest.mark.parametrize("alpha", [-0.25, 1.5])
def test_alpha_that_runs_away_is_warned_of(alpha):
    x, sigma, noise = (jnp.asarray(a, jnp.float32) for a in problem())
    message = "where it is wider than 1.73 times" if alpha > 1 else "which shrinks every law"
    with pytest.warns(UserWarning, match=message):
        distillation.generator_loss(x, *denoisers(jnp), sigma, noise, alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distillation.generator_loss(x, *denoisers(jnp), sigma, noise, 1.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": jnp.array([1.0, 0.0, 1.0])}, "sigma: expected positive, finite levels, got 0"),
        (
            {"sigma": jnp.array([1.0, np.inf, 1.0])},
            "sigma: expected positive, finite levels, got inf",
        ),
        ({"x": jnp.ones((0, 2)), "noise": jnp.ones((0, 2))}, "x: expected examples"),
        ({"sigma": jnp.ones(2)}, "sigma, noise: expected"),
        ({"noise": jnp.ones((3, 2))}, "sigma, noise: expected"),
        ({"x": jnp.ones(SHAPE, int)}, "x: expected floating point"),
        ({"teacher": lambda y, s: y[..., :0]}, "denoiser: expected the shape"),
    ],
)
def test_bad_input_is_named(change, message):
    x, sigma, noise = (jnp.asarray(a, jnp.float32) for a in problem())
    given = {"x": x, "sigma": sigma, "noise": noise}
    given |= dict(zip(("teacher", "fake"), denoisers(jnp), strict=True))
    with pytest.raises(ValueError, match=message):
        distillation.generator_loss(**(given | change))
    if "teacher" not in change:
        with pytest.raises(ValueError, match=message):
            arguments = {k: v for k, v in (given | change).items() if k != "teacher"}
            distillation.fake_score_loss(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: distillation.generate(shrink, jnp.ones((1, 2)), 0.0),
            "sigma: expected a positive",
        ),
        (lambda: steps([1.0, 2.0]), "sigmas: expected positive levels that fall"),
        (lambda: distillation.diagnose(1.0, 0.0), "reference: expected a positive deviation"),
        (lambda: steps([2.0, 1.0], 2), "last: expected steps from 0 to 1, one or 1, got 2"),
        (lambda: steps([2.0, 1.0], -1), "last: expected steps from 0 to 1, one or 1, got -1"),
        (lambda: steps([2.0, 1.0], 0.5), "last: expected steps from 0 to 1, one or 1, got 0.5"),
        (lambda: steps([2.0, 1.0], jnp.zeros(3, int)), "last: expected steps from 0 to 1"),
        (lambda: loss(np.nan), "alpha: expected a finite number, got nan"),
        (lambda: loss(None), "alpha: expected a number, got None|alpha: expected a finite number"),
        (lambda: loss(jnp.ones(3)), "alpha: expected a finite number"),
        (lambda: steps([]), "sigmas: expected \\[steps\\]"),
        (lambda: distillation.generator_sigma([0.5, -1.0]), r"u: expected values in \[0, 1\], got"),
        (lambda: distillation.generator_sigma(0.5, 1.5), "t_max, sigma_min, sigma_max, rho"),
        (lambda: process.edm_denoiser(shrink, "y"), "prediction: expected one of"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def steps(levels, last=None):
    return distillation.generate_steps(shrink, jnp.ones((1, 2)), levels, jax.random.key(0), last)


def loss(alpha):
    x, sigma, noise = (jnp.asarray(a, jnp.float32) for a in problem())
    return distillation.generator_loss(x, *denoisers(jnp), sigma, noise, alpha)
