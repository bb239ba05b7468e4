"""`fit` on the line, with reflected ends, a floor, several orders; warnings and bad choices."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import fourier

from fourier_density import RealLineDensity, ReflectedDensity, fit, likelihood, transforms


@pytest.fixture(scope="module")
def two_peaks():
    """3000 points of 0.36 N(2.02, 0.24) + 0.64 N(4.27, 0.43)."""
    rng = np.random.default_rng(0)
    low = rng.random(3000) < 0.36
    return np.where(low, rng.normal(2.02, 0.24, 3000), rng.normal(4.27, 0.43, 3000))


def true_loss(y):
    normal = lambda m, s: np.exp(-0.5 * ((y - m) / s) ** 2) / s / np.sqrt(2 * np.pi)  # noqa: E731
    return -np.mean(np.log(0.36 * normal(2.02, 0.24) + 0.64 * normal(4.27, 0.43)))


def loss_of(density, y):
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), density)
        return -float(jnp.mean(jax.jit(exact.log_prob)(jnp.asarray(y))))


def test_fit_on_the_line_beats_the_true_density_on_its_data(two_peaks):
    result = fit(two_peaks, 8, "real")
    assert isinstance(result.density, RealLineDensity)
    np.testing.assert_allclose(result.train_nll, loss_of(result.density, two_peaks), atol=1e-5)
    # The maximum lies above the truth by half the degrees of freedom over n, give or take.
    assert true_loss(two_peaks) - 0.01 < result.train_nll < true_loss(two_peaks) + 0.002
    assert result.certificate < 1e-5


def test_searching_location_and_scale_is_better_than_any_fixed_ones(two_peaks):
    searched = fit(two_peaks, 5, "real", base="tanh")
    assert searched.density.base == transforms.Tanh()
    for loc, scale in ((3.4, 0.8), (3.0, 1.5), (4.0, 3.0)):
        fixed = fit(two_peaks, 5, "real", base="tanh", loc=loc, scale=scale)
        assert float(fixed.density.loc) == np.float32(loc)
        assert searched.train_nll < fixed.train_nll


def test_the_base_of_highest_likelihood_is_chosen():
    y = np.random.default_rng(1).standard_t(3, 4000)
    losses = {name: fit(y, 2, "real", base=name).train_nll for name in ("normal", "student_t")}
    chosen = fit(y, 2, "real", base=("normal", "student_t"))
    assert losses["student_t"] < losses["normal"]
    assert chosen.density.base == transforms.StudentT(3.0)
    np.testing.assert_allclose(chosen.train_nll, losses["student_t"], atol=1e-3)


def test_reflected_ends_remove_the_jump():
    x = 2.0 * np.random.default_rng(2).beta(1.0, 2.0, 4000) - 1.0  # a ramp from 1 to 0
    reflected, periodic = fit(x, 8, boundary="reflect"), fit(x, 4)  # eight parameters each
    assert isinstance(reflected.density, ReflectedDensity)
    assert reflected.train_nll < periodic.train_nll - 0.01
    assert reflected.certificate < 1e-5
    np.testing.assert_allclose(reflected.train_nll, loss_of(reflected.density, x), atol=1e-5)
    line = fit(x, 4, "real", boundary="reflect", base="normal")
    assert line.density.reflect
    np.testing.assert_allclose(line.train_nll, loss_of(line.density, x), atol=1e-5)


def test_a_floor_is_part_of_the_maximum(x64):
    x = np.random.default_rng(3).uniform(-0.2, 0.2, 200)
    result = fit(x, 4, floor=0.3)
    assert result.certificate < 1e-5
    a = np.asarray(result.density.coefficients)
    np.testing.assert_allclose(
        result.train_nll, -np.mean(np.log(fourier.density(a, x, 0.3))), atol=1e-12
    )
    rng = np.random.default_rng(4)
    for _ in range(20):
        b = a + 1e-2 * (rng.normal(size=5) + 1j * rng.normal(size=5))
        other = -np.mean(np.log(fourier.density(b, x, 0.3)))
        assert other > result.train_nll - result.certificate - 1e-12
    without = fit(x, 4)
    floored = likelihood.assess(
        np.asarray(without.density.coefficients)
        / np.linalg.norm(np.asarray(without.density.coefficients)),
        0,
        x,
        np.full(200, 1 / 200),
        0.3,
    )
    assert result.train_nll < floored.nll  # better than adding the floor afterwards


@pytest.mark.parametrize("criterion", ["aic", "bic", "cv"])
def test_criteria_choose_the_order_of_the_density(criterion):
    a = np.array([1.0, 0.0, 0.0, 0.9])  # three equal waves
    rng = np.random.default_rng(5)
    x = rng.uniform(-1, 1, 20_000)
    x = x[rng.uniform(0, 2.0, x.size) < fourier.density(a, x)][:3000]
    result = fit(x, (1, 2, 3, 12), criterion=criterion)
    assert result.density.order == 3
    assert set(result.scores) == {1, 2, 3, 12}
    assert result.scores[3] == min(result.scores.values())


def test_without_an_order_the_data_decide():
    x = np.random.default_rng(6).uniform(-1, 1, 60)
    result = fit(x)
    assert max(result.scores) == 6  # twelve degrees of freedom for sixty samples
    assert result.density.order <= 2


@pytest.mark.filterwarnings("error")
def test_samples_that_precision_does_not_tell_apart_are_reported():
    x = np.random.default_rng(0).normal(size=200)
    fit(1e3 + x, 2, "real", base="normal")
    with pytest.warns(UserWarning, match="within 1.*near 1e.07 are 1 apart in JAX's precision"):
        fit(1e7 + x, 2, "real", base="normal")


def test_few_samples_are_reported():
    with pytest.warns(UserWarning, match="20 degrees of freedom for 30 different samples"):
        fit(np.linspace(-0.9, 0.9, 30), 10)
    with pytest.warns(UserWarning, match="for 1 different samples"):
        result = fit(np.full(50, 0.25), 3)
    # All the mass at a point: Fejer's kernel, the most peaked density of order three.
    np.testing.assert_allclose(result.train_nll, -np.log(2.0), atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(np.linspace(-0.9, 0.9, 400), 10)
        fit(np.linspace(-0.9, 0.9, 30), 10, floor=1 / 30)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (
            np.full(5, 2.0),
            {"order": 1, "support": "real"},
            r"different values of positive weight, got 2 ",
        ),
        (
            np.arange(3.0),
            {"order": 1, "support": "real", "weights": [1.0, 0.0, 0.0]},
            r"expected different values of positive weight, got 0 alone",
        ),
        (np.arange(3.0), {"order": 1, "support": "real", "loc": np.nan}, r"loc: expected a finite"),
        (
            np.arange(3.0),
            {"order": 1, "support": "real", "scale": np.inf},
            r"scale: expected a pos",
        ),
        (np.arange(3.0), {"order": 1, "support": "real", "base": []}, r"base: expected at least"),
        (np.zeros(3), {"order": 1, "base": "normal"}, r"base, loc, scale: only for support=.real"),
        ([0.1, np.inf], {"order": 1, "support": "real"}, "samples: expected finite"),
        ([0.1, 1.5], {"order": 1}, 'or fit with support="real"'),
        ([0.1, 0.2], {"order": 1, "support": "line"}, "support: expected one of circle, real"),
        ([0.1, 0.2], {"order": 1, "boundary": "odd"}, "boundary: expected one of periodic"),
        ([0.1, 0.2], {"order": (1, 2), "criterion": "hq"}, "criterion: expected one of aic"),
        ([0.1, 0.2], {"order": ()}, "order: expected at least one"),
        ([0.1, 0.2], {"order": 1.5}, "order: expected an integer >= 1, got 1.5"),
        ([0.1, 0.2], {"order": "8"}, "order: expected an integer >= 1, got '8'"),
        ([0.1, 0.2], {"order": np.nan}, "order: expected an integer >= 1, got nan"),
        ([0.1, 0.2], {"order": 1, "max_iterations": -1}, "max_iterations: expected an integer >="),
        (
            np.arange(3.0),
            {"order": 1, "support": "real", "base": transforms.StudentT},
            "base: expected one of tanh",
        ),
        ([0.1, 0.2], {"order": 1, "floor": 1.0}, "floor: expected a weight in"),
        ([0.1, 0.2], {"order": 1, "support": "real", "scale": -1.0}, "scale: expected a positive"),
        ([0.1, 0.2], {"order": 1, "support": "real", "base": "tan"}, "base: expected one of tanh"),
        ([0.1, 0.2], {"order": (1, 2), "criterion": "cv"}, "folds: expected 2 to 2"),
    ],
)
def test_bad_choices_are_refused_by_name(samples, options, message):
    with pytest.raises(ValueError, match=message):
        fit(samples, **options)
