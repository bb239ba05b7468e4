"""Edges: options, precisions and places that are easily lost, and input that was once silent."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import diffusion as reference

from diffusion import (
    edm,
    exact,
    guidance,
    likelihood,
    losses,
    metrics,
    process,
    samplers,
    schedules,
    times,
)

plain = inspect.unwrap  # a function without the type checks of the suite


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


@pytest.mark.parametrize("sigma_data", [0.25, 1.0, 2.0])
def test_uniform_weights_know_the_deviation_of_the_data(sigma_data, x64):
    x, eps, off = draw(3, 5), draw(3, 5, seed=1), draw(3, 5, seed=2)
    levels = jnp.array([-2.0, 0.0, 3.0])
    z = process.diffuse(x, eps, levels)
    options = {"space": "x", "sigma_data": sigma_data}
    output = process.convert(x + off, z, levels, "x", "F", sigma_data)
    loss = losses.denoising(output, x, eps, levels, "F", "uniform", **options)
    np.testing.assert_allclose(loss, jnp.mean(off**2, axis=1), rtol=1e-10)


@pytest.mark.parametrize("lam", [-20.0, -3.0, 0.0, 15.0, 20.0])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_f_loses_nothing_to_cancellation(lam, sigma_data):
    """In single precision, between F and v, where both are of order one."""
    x, eps = np.random.default_rng(0).normal(size=(2, 1, 200))
    z = process.diffuse(jnp.asarray(x), jnp.asarray(eps), lam)
    v, f = (reference.parts(x, eps, lam, kind, sigma_data) for kind in ("v", "F"))
    ours = process.convert(jnp.asarray(f), z, lam, "F", "v", sigma_data)
    np.testing.assert_allclose(ours, v, atol=3e-6 * max(1.0, np.abs(v).max()))
    back = process.convert(jnp.asarray(v), z, lam, "v", "F", sigma_data)
    np.testing.assert_allclose(back, f, atol=3e-6 * max(1.0, np.abs(f).max(), np.abs(v).max()))


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "schedule",
    [
        schedules.edm(-0.4, 1.0, 0.01, 50.0),
        schedules.edm(),
        schedules.shifted(schedules.cosine(), 64, 128),
        schedules.interpolated(schedules.cosine(), 32, 256, 512),
        schedules.linear(),
        schedules.vp_sde(),
    ],
)
def test_weights_are_finite_at_both_ends(schedule):
    """Rounded log-SNRs at t = 0 and t = 1 still lie within the schedule."""
    logsnr = schedule(jnp.array([0.0, 1e-7, 1.0]))
    for weighting in ("elbo", "sigmoid", "edm"):
        assert np.all(np.isfinite(losses.weight(weighting, logsnr, "v", schedule)))
    with pytest.raises(ValueError, match="logsnr: expected values in"):
        losses.weight("elbo", float(schedule.ends[1]) + 1.0, "v", schedule)


def test_wide_levels_of_edm_are_finite():
    ends = jnp.array([0.0, 0.5, 1.0])
    for schedule in (schedules.edm(std=0.3), schedules.edm(sigma_min=1e-8), schedules.edm(std=0.1)):
        assert np.all(np.isfinite(schedule(ends)))
        low, high = schedule.ends
        assert np.all((schedule(ends) >= low - 1e-3) & (schedule(ends) <= high + 1e-3))
    assert np.all(np.isfinite(schedules.vp_sde(0.1, 300.0)(ends)))


@pytest.mark.slow
def test_bounds_of_half_precision_data_are_computed_in_single():
    law, schedule = exact.gaussian([0.0], [[0.5]]), schedules.linear(-5.0, 13.3)
    x = law.sample(jax.random.key(0), 4000)
    run = functools.partial(
        likelihood.bound, jax.random.key(1), exact.denoiser(law, "v"), schedule=schedule, steps=1000
    )
    half, single = run(x.astype(jnp.bfloat16)), run(x)
    assert half.total.dtype == jnp.float32
    assert float(jnp.mean(half.diffusion == 0)) < 0.01
    np.testing.assert_allclose(half.diffusion.mean(), single.diffusion.mean(), rtol=0.02)


def test_ceilings_may_be_called_anything():
    near, far = np.random.default_rng(0).normal(size=(2, 60, 2))
    far = far + 9.0
    plain = metrics.report(metrics.energy_distance, near, near[::-1], near[::2])
    ceilings = {"samples": far, "reference": far, "held_out": far}
    named = metrics.report(metrics.energy_distance, near, near[::-1], near[::2], ceilings)
    assert named.floor == plain.floor and named.value == plain.value
    assert set(named.ceilings) == set(ceilings) and min(named.ceilings.values()) > 5


def test_a_scale_for_each_example(x64):
    denoise = lambda z, lam, condition: z * condition[:, None]  # noqa: E731
    z, lam, condition = draw(2, 2), jnp.zeros(2), jnp.array([1.0, 1.0])
    scale = jnp.array([2.0, 5.0])
    for interval in (None, (-1.0, 1.0)):
        guided = guidance.classifier_free(denoise, scale, 0.0, interval)(z, lam, condition)
        np.testing.assert_allclose(guided, scale[:, None] * z, atol=1e-13)
    with pytest.raises(ValueError, match=r"scale: expected a number or \(2,\), got \(3,\)"):
        guidance.classifier_free(denoise, jnp.ones(3), 0.0)(z, lam, condition)
    for rows in (jnp.ones(4), jnp.ones(())):
        with pytest.raises(ValueError, match="condition: expected one for each of 2 examples, got"):
            guidance.classifier_free(denoise, 2.0, 0.0)(z, lam, rows)
    with pytest.raises(ValueError, match="unconditional: expected what int"):
        guidance.classifier_free(denoise, 2.0, 0.5)(z, lam, jnp.array([1, 2]))
    with pytest.raises(ValueError, match="unconditional: expected what uint8"):
        guidance.classifier_free(denoise, 2.0, -1)(z, lam, jnp.array([1, 2], jnp.uint8))


@pytest.mark.parametrize("edm_sampler", [False, True])
def test_parameters_are_arguments_and_never_stale(edm_sampler):
    traces = []

    def denoise(params, z, level):
        traces.append(1)
        return params["w"] * z

    z = jnp.ones((2, 3))
    if edm_sampler:
        run = functools.partial(samplers.sample_edm, denoise, z, [2.0, 1.0, 0.0], "euler")
    else:
        lams = jnp.array([-1.0, 0.0, 1.0])
        run = functools.partial(samplers.sample, denoise, z, lams, prediction="x")
    first, second = (run(params={"w": jnp.asarray(w)}) for w in (0.5, -0.5))
    assert len(traces) == 1 and np.abs(first - second).max() > 0.1
    gradient = jax.grad(lambda w: jnp.sum(run(params={"w": w})))(0.5)
    assert np.isfinite(gradient) and gradient != 0


def test_heun_names_the_level_of_its_second_call():
    def denoise(z, lam):
        return jnp.where(lam[:, None] > 2.0, jnp.nan, 0.0 * z)

    with pytest.raises(ValueError, match="got others at log-SNR 3"):
        samplers.sample(denoise, jnp.ones((1, 2)), [-4.0, 0.0, 3.0, 5.0], "heun", "x")

    def other(y, sigma):
        return jnp.where(sigma[:, None] < 2.0, jnp.nan, 0.0 * y)

    with pytest.raises(ValueError, match="got others at sigma 1"):
        samplers.sample_edm(other, jnp.ones((1, 2)), [10.0, 5.0, 1.0, 0.0], "heun")


def test_traced_levels_that_do_not_rise_give_nan():
    denoise = exact.denoiser(exact.ring(3), "v")
    z = jnp.ones((2, 2))
    run = jax.jit(lambda lams: samplers.sample(denoise, z, lams))
    assert np.all(np.isnan(run(jnp.array([1.0, 0.0, 2.0]))))
    assert np.all(np.isfinite(run(jnp.array([0.0, 1.0, 2.0]))))
    run = jax.jit(lambda s: samplers.sample_edm(lambda y, sigma: 0.5 * y, z, s))
    assert np.all(np.isnan(run(jnp.array([1.0, 2.0, 0.0]))))


def test_schedules_are_made_and_trained_under_jit():
    @jax.jit
    def inside(t):
        return schedules.interpolated(schedules.cosine(), 32, 64, 64)(t)

    assert np.isfinite(inside(0.3))
    learned = schedules.learned(jax.random.key(0))
    gradient = jax.grad(lambda s: schedules.interpolated(s, 32, 64, 64).logsnr(jnp.asarray(0.3)))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient(learned)))


def test_components_that_are_not_asked_for_are_drawn():
    law = exact.mixture([0.5, 0.5], [[-5.0], [5.0]], [0.1, 0.1])
    x = law.sample(jax.random.key(0), 200, jnp.full(200, -1))
    assert 60 < int(jnp.sum(x > 0)) < 140
    assert np.all(law.sample(jax.random.key(0), 20, jnp.ones(20, int)) > 0)


def test_preconditioning_keeps_precision_and_dtype():
    seen = []

    def network(y, noise):
        seen.append((y.dtype, noise.dtype))
        return y

    y = jnp.ones((2, 3), jnp.bfloat16)
    out = edm.precondition(network)(y, jnp.array([0.1, 3.0]))
    assert out.dtype == jnp.bfloat16 and seen == [(jnp.bfloat16, jnp.float32)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: plain(process.diffuse)(x.astype(int), x.astype(int), 0.0),
            "x: expected floating point, got int32; scale it first",
        ),
        (lambda x: plain(process.diffuse)(x, x[:1], 0.0), r"eps: expected the shape \(4, 3\) of x"),
        (
            lambda x: plain(losses.denoising)(x, x, x[:, :1], jnp.zeros(4)),
            "output, x, eps: expected one shape",
        ),
        (lambda x: losses.weight("uniform", 0.0, space="w"), "space: expected one of"),
        (lambda x: losses.weight("min_snr", 0.0, gamma=-1.0), "gamma: expected a positive"),
        (
            lambda x: plain(losses.multi_scale)(x[:, 0], x[:, 0], (1,)),
            "eps: expected square images",
        ),
        (
            lambda x: plain(likelihood.reconstruction)(
                jax.random.key(0), 50.0 * x, 5.0, jnp.ones(2)
            ),
            "bins: expected the values that x takes, got others",
        ),
        (
            lambda x: plain(times.independent)(jax.random.key(0), 4.5),
            "batch: expected a whole number",
        ),
        (
            lambda x: plain(times.low_discrepancy)(4, jax.random.key(0)),  # in the wrong order
            "batch: expected a whole number",
        ),
        (lambda x: plain(times.antithetic)(jax.random.key(0), 3), "batch: expected an even number"),
        (
            lambda x: plain(samplers.sample)(x, exact.denoiser(exact.ring(4)), [0.0, 1.0]),
            "denoiser: expected a function",
        ),
        (
            lambda x: plain(schedules.edm_sigmas)(2.5),
            "steps: expected a whole number of at least 2",
        ),
        (lambda x: plain(metrics.prdc)(x, x, 2.5), "k: expected a whole number"),
        (lambda x: metrics.report(max, [], x, x), "samples, reference, held_out, ceilings: exp"),
        (
            lambda x: plain(samplers.sample_edm)(
                lambda y, s: y, x, [1.0, 0.0], churn=samplers.Churn(1.0, 5.0, 1.0), key=1
            ),
            "churn: expected low <= high, got 5.0 and 1.0",
        ),
        (
            lambda x: samplers.sample_edm(
                lambda y, s: y, x, [1.0, 0.0], churn=samplers.Churn(float("nan"))
            ),
            "churn: expected a Churn of numbers",
        ),
    ],
)
def test_silent_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((4, 3)))


def test_a_clip_may_be_a_list():
    denoise = exact.denoiser(exact.ring(3), "v")
    run = inspect.unwrap(samplers.sample)
    x = run(denoise, jnp.ones((2, 2)), [-1.0, 0.0, 1.0], clip=[-0.1, 0.1])
    assert np.abs(x).max() <= 0.1 + 1e-6
