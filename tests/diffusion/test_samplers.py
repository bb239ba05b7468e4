"""Samplers against loops in float64, against closed forms, and their orders."""

import functools
import inspect
import itertools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import diffusion as reference

from diffusion import exact, process, samplers, schedules

LAW = {
    "weights": np.array([0.2, 0.5, 0.3]),
    "means": np.array([[1.0, 0.5], [-0.7, 0.2], [0.1, -1.2]]),
    "deviations": np.array([0.3, 0.2, 0.4]),
}


def law():
    return exact.mixture(LAW["weights"], LAW["means"], LAW["deviations"])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def levels(n, schedule=None):
    return (schedule or schedules.cosine(-8.0, 8.0))(jnp.linspace(1.0, 0.0, n + 1))


def edm_denoiser(one):
    def denoise(y, sigma):
        lam = -2 * jnp.log(sigma)
        return one.denoise(y * process.alpha_sigma(lam)[0][:, None], lam)

    return denoise


@pytest.mark.sample(5)
@pytest.mark.parametrize("method", ["ddim", "ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("prediction", ["v", "eps", "x", "score", "F"])
def test_trajectories_are_those_of_the_loops(method, prediction, x64):
    z, lams, key = draw(5, 2), levels(7), jax.random.key(3)
    noise = [jax.random.normal(jax.random.fold_in(key, i), (5, 2)) for i in range(7)]
    denoise = functools.partial(reference.mixture_denoise, **LAW)
    expected = reference.sample(denoise, z, np.asarray(lams), method, 0.3, noise)
    x, path = samplers.sample(
        exact.denoiser(law(), prediction),
        jnp.asarray(z),
        lams,
        method,
        prediction,
        key,
        trajectory=True,
    )
    np.testing.assert_allclose(path, expected, atol=1e-11)
    np.testing.assert_allclose(x, expected[-1], atol=1e-11)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("churned", [False, True])
def test_trajectories_of_edm(method, churned, x64):
    sigmas, key = schedules.edm_sigmas(18), jax.random.key(1)
    y = 80.0 * draw(4, 2)
    churn = samplers.Churn(30.0, 0.05, 50.0, 1.003) if churned else None
    noise = [jax.random.normal(jax.random.fold_in(key, i), (4, 2)) for i in range(18)]
    expected = reference.sample_edm(
        functools.partial(reference.denoiser_edm, **LAW),
        y,
        sigmas,
        method == "heun",
        *((tuple(churn), noise) if churned else ()),
    )
    x, path = samplers.sample_edm(
        edm_denoiser(law()), jnp.asarray(y), sigmas, method, key, churn=churn, trajectory=True
    )
    np.testing.assert_allclose(path / 80.0, expected / 80.0, atol=1e-11)
    np.testing.assert_allclose(x, expected[-1], atol=1e-9)


def test_churn_is_finite_in_single_precision():
    """Also at levels without any, where a difference of equal squares may round below 0."""
    sigmas = np.geomspace(148.41316, 0.0067, 40)
    churn = samplers.Churn(20.0, 0.05, 20.0)
    start, key = jnp.ones((2, 2)), jax.random.key(0)
    x = samplers.sample_edm(edm_denoiser(law()), start, sigmas, key=key, churn=churn)
    assert np.all(np.isfinite(x))


def test_methods_that_are_one_another(x64):
    """Euler is DDIM, in EDM's coordinates too; Heun is EDM's."""
    z, one = jnp.asarray(draw(3, 2)), law()
    lams = levels(9)
    predict = exact.denoiser(one, "eps")
    run = functools.partial(samplers.sample, predict, z, lams, prediction="eps")
    np.testing.assert_allclose(run("euler"), run("ddim"), atol=1e-13)
    sigmas = jnp.append(jnp.exp(-0.5 * lams[:-1]), 0.0)
    y = z / process.alpha_sigma(lams[0])[0]
    for method in ("euler", "heun"):
        other = samplers.sample_edm(edm_denoiser(one), y, sigmas, method)
        np.testing.assert_allclose(run(method), other, atol=1e-10)


def test_orders_of_euler_and_heun(x64):
    """On a flow that is known: a normal law, from sigma 10 to 0.1 in even steps of log sigma."""
    one = exact.gaussian([0.3, -0.2], [[0.5, 0.2], [0.2, 0.4]])
    y = jnp.asarray(10.0 * draw(6, 2))
    lam = {s: -2 * np.log(s) for s in (10.0, 0.1)}
    here, there = (process.alpha_sigma(lam[s])[0] for s in (10.0, 0.1))
    end = one.flow(y * here, lam[10.0], lam[0.1]) / there
    counts = np.array([16, 32, 64, 128])
    for method, order, slack in (("euler", 1, 0.15), ("heun", 2, 0.2)):
        errors = []
        for count in counts:
            sigmas = np.geomspace(10.0, 0.1, count + 1)
            x = samplers.sample_edm(edm_denoiser(one), y, sigmas, method)
            errors.append(float(jnp.abs(x - end).max()))
        slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert abs(slope - order) < slack, (method, errors)


def test_second_order_of_dpm_solver(x64):
    one = exact.gaussian([0.3, -0.2], [[0.5, 0.2], [0.2, 0.4]])
    z, errors, counts = jnp.asarray(draw(6, 2)), [], np.array([16, 32, 64, 128])
    end = one.flow(z, -5.0, 4.0)
    for count in counts:
        lams = np.append(np.linspace(-5.0, 4.0, count + 1), 4.5)  # one more level: its estimate
        _, path = samplers.sample(
            exact.denoiser(one, "x"), z, lams, "dpmpp_2m", "x", trajectory=True
        )
        errors.append(float(jnp.abs(path[-2] - end).max()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.2, errors


def test_a_normal_law_in_closed_form(x64):
    """Of N(0, 1) every step is a factor; 18 steps are far from converged."""
    sigmas = schedules.edm_sigmas(18)
    denoise = lambda y, sigma: y / (1 + sigma[:, None] ** 2)  # noqa: E731
    y = jnp.ones((1, 1))
    factors = {"euler": 1.0, "heun": 1.0}
    for s, after in itertools.pairwise(sigmas):
        slope = s / (1 + s**2)
        new = 1 + (after - s) * slope
        factors["euler"] *= new
        if after > 0:
            new = 1 + (after - s) * 0.5 * (slope + new * after / (1 + after**2))
        factors["heun"] *= new
    start = np.sqrt(80.0**2 + 1)
    for method, known in (("euler", 0.8594), ("heun", 1.0447)):
        x = samplers.sample_edm(denoise, y, sigmas, method)
        np.testing.assert_allclose(x[0, 0], factors[method], rtol=1e-10)
        assert factors[method] * 80.0 == pytest.approx(known, abs=2e-3)
    assert abs(start - 80.0) < 0.01


@pytest.mark.sample(1)
@pytest.mark.parametrize("variance", [0.0, 0.3, 1.0])
def test_ancestral_samples_have_the_moments_of_the_data(variance):
    """Of a normal law; between both bounds of the variance many small steps agree."""
    one = exact.gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.4]])
    n, first, second = 4000, *jax.random.split(jax.random.key(0))
    z = jax.random.normal(first, (n, 2))
    lams = levels(256, schedules.cosine(-12.0, 12.0))
    x = samplers.sample(
        exact.denoiser(one, "v"), z, lams, "ancestral", "v", second, variance=variance
    )
    x = np.asarray(x, float)
    assert np.all(np.abs(x.mean(0) - [0.5, -0.3]) < 4 * np.sqrt(np.array([0.5, 0.4]) / n) + 0.01)
    covariance = np.cov(x.T)
    np.testing.assert_allclose(covariance, [[0.5, 0.2], [0.2, 0.4]], atol=4 * 0.7 / np.sqrt(n))


@pytest.mark.slow
def test_the_last_update_is_the_estimate(x64):
    z, one, lams = jnp.asarray(draw(3, 2)), law(), levels(4)
    for method in ("ddim", "ancestral", "heun", "dpmpp_2m", "euler"):
        x, path = samplers.sample(
            exact.denoiser(one), z, lams, method, "x", jax.random.key(0), trajectory=True
        )
        assert path.shape == (5, 3, 2)
        np.testing.assert_array_equal(path[0], z)
        np.testing.assert_allclose(x, one.denoise(path[-2], lams[-2]), atol=1e-12)


def test_clipping_holds_x_within_its_bounds():
    z, lams = jnp.asarray(draw(50, 2)), levels(10)
    denoise = exact.denoiser(law(), "v")
    free = samplers.sample(denoise, z, lams)
    x = samplers.sample(denoise, z, lams, clip=(-0.5, 0.5))
    assert np.abs(free).max() > 0.6 and np.abs(x).max() <= 0.5


def test_one_program_for_one_shape():
    count = []

    def denoise(z, logsnr, condition):
        count.append(z.shape)
        return 0.5 * z + condition

    z = jnp.ones((2, 3))
    for n, shift in ((6, 0.0), (6, 0.1), (6, 0.2)):
        condition = jnp.full((2, 3), shift)
        samplers.sample(denoise, z + shift, levels(n) + shift, "ddim", "x", condition=condition)
    assert len(count) == 1
    samplers.sample(denoise, jnp.ones((4, 3)), levels(6), "ddim", "x", condition=jnp.ones((4, 3)))
    assert len(count) == 2


def test_predictions_that_are_not_finite_are_reported_with_their_place():
    lams = levels(8)
    threshold = float(lams[4]) - 1e-3

    def denoise(z, logsnr):
        return jnp.where(logsnr[:, None] >= threshold, jnp.inf, 0.0 * z)

    message = f"denoiser: expected finite predictions, got others at log-SNR {float(lams[4]):g}"
    for method in ("ddim", "dpmpp_2m"):
        with pytest.raises(ValueError, match=message):
            samplers.sample(denoise, jnp.ones((2, 2)), lams, method, "x", clip=(-1.0, 1.0))
    traced = jax.jit(lambda z: samplers.sample(denoise, z, lams, "ddim", "x", clip=(-1.0, 1.0)))
    assert np.all(np.isnan(traced(jnp.ones((2, 2)))))

    def bad(y, sigma):
        return jnp.where(sigma[:, None] < 1.0, jnp.nan, y)

    with pytest.raises(ValueError, match="z: expected finite numbers"):
        samplers.sample(lambda z, lam: z, jnp.full((1, 2), jnp.nan), lams)
    with pytest.raises(ValueError, match="denoiser: expected finite predictions, got others at si"):
        samplers.sample_edm(bad, jnp.ones((2, 2)), schedules.edm_sigmas(5))


def test_denoisers_with_and_without_a_condition():
    z, lams = jnp.ones((2, 3)), levels(4)
    plain = samplers.sample(lambda z, lam: 0.5 * z, z, lams, prediction="x")
    given = samplers.sample(lambda z, lam, condition: 0.5 * z, z, lams, prediction="x")
    optional = samplers.sample(lambda z, lam, condition=3: 0.5 * z, z, lams, prediction="x")
    np.testing.assert_array_equal(plain, given)
    np.testing.assert_array_equal(plain, optional)
    with pytest.raises(ValueError, match=r"denoiser: expected the shape \(2, 3\) of z, got \(2,\)"):
        samplers.sample(lambda z, lam: z[:, 0], z, lams, prediction="x")


def test_errors_of_a_denoiser_say_what_it_was_called_with():
    network, z = nn.Conv(3, (1, 1)), jnp.ones((2, 4, 4, 3))
    params = network.init(jax.random.key(0), z)

    def denoise(params, z, lam):
        return network.apply(params, z)

    assert samplers.sample(denoise, z, levels(2), params=params).shape == z.shape
    for unbound in (network, network.apply):
        with pytest.raises(ValueError, match="params: expected the network's, beside its `apply`"):
            samplers.sample(unbound, z, levels(2))
    with pytest.raises(flax.errors.ScopeParamShapeError) as raised:
        samplers.sample(denoise, z[..., :1], levels(2), params=params)
    note = "denoiser: raised this for z (2, 4, 4, 1) and levels (2,)"
    assert note in raised.value.__notes__


def test_gradients_pass_through_a_sampler(x64):
    one, lams = law(), levels(5)
    denoise = exact.denoiser(one, "v")
    run = lambda z: jnp.sum(samplers.sample(denoise, z, lams, "heun") ** 2)  # noqa: E731
    z = jnp.asarray(draw(2, 2))
    gradient, step = jax.grad(run)(z), 1e-6
    for place in ((0, 0), (1, 1)):
        bump = jnp.zeros((2, 2)).at[place].set(step)
        slope = (run(z + bump) - run(z - bump)) / (2 * step)
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk4"}, "method: expected one of .*'rk4'"),
        ({"prediction": "u"}, "prediction: expected one of .*'u'"),
        ({"logsnrs": [3.0, 2.0]}, "logsnrs: expected values that rise, got 3 and then 2"),
        ({"logsnrs": [1.0, np.nan]}, "logsnrs: expected values that rise"),
        ({"logsnrs": [1.0]}, "logsnrs: expected at least 2 levels"),
        ({"method": "ancestral"}, "key: expected a random key"),
        ({"variance": 1.5}, r"variance: expected a number in \[0, 1\], got 1.5"),
        ({"clip": (1.0, 1.0)}, "clip: expected a lower and a higher bound"),
    ],
)
def test_bad_input_is_refused_by_name(options, message):
    given = {"logsnrs": [-1.0, 1.0]} | options
    with pytest.raises(ValueError, match=message):
        samplers.sample(exact.denoiser(law()), jnp.ones((1, 2)), **given)


@pytest.mark.parametrize(
    ("denoiser", "z", "message"),
    [
        ({"weights": 1}, np.ones((1, 2), np.float32), "denoiser: expected a function, got dict"),
        (exact.denoiser(law()), np.ones((0, 2), np.float32), "z: expected noise"),
        (exact.denoiser(law()), np.ones((1, 2), np.int32), "z: expected noise .* got int32"),
    ],
)
def test_what_is_no_denoiser_and_no_noise_is_refused(denoiser, z, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(samplers.sample)(denoiser, jnp.asarray(z), [-1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ddim"}, "method: expected 'euler' or 'heun'"),
        ({"sigmas": [1.0, 2.0]}, "sigmas: expected values that fall, got 1 and then 2"),
        ({"sigmas": [1.0, -2.0]}, "sigmas: expected no negative level, got -2"),
        ({"churn": samplers.Churn(1.0)}, "key: expected a random key for churn"),
        ({"churn": samplers.Churn(-1.0)}, "churn: expected a Churn of numbers that are not"),
    ],
)
def test_bad_input_to_edm_is_refused_by_name(options, message):
    given = {"sigmas": [1.0, 0.0]} | options
    with pytest.raises(ValueError, match=message):
        samplers.sample_edm(edm_denoiser(law()), jnp.ones((1, 2)), **given)
