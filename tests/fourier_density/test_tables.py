"""Frequency tables: sums, closeness to the masses, symbols, bad input."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import fourier_density
from fourier_density import (
    PeriodicDensity,
    RealLineDensity,
    ReflectedDensity,
    deep_factorized,
    tables,
)
from fourier_density.tables import TOTAL, Table

NORMAL = RealLineDensity(np.ones(1), 1.0, 2.0, base="normal")


def cross_entropy(p, w):
    """Bits lost by w for p."""
    used = p > 0
    return float(np.sum(p[used] * np.log2(p[used] / (w[used] / TOTAL))))


def test_frequencies_follow_the_masses_of_a_normal_distribution():
    table = tables.from_density(NORMAL, step=0.1, offset=0.03)
    middles = table.dequantise(table.low + np.arange(table.symbols))
    exact = stats.norm(1.0, 2.0)
    p = exact.cdf(middles + 0.05) - exact.cdf(middles - 0.05)
    w = table.frequencies
    assert w.sum() == TOTAL and w.min() >= 1 and table.escapes
    assert np.abs(w[:-1] / TOTAL - p).max() <= (w.size + 2) / TOTAL
    assert 0 <= 1 - p.sum() < 2.1e-6  # what the tails leave to the escape
    assert cross_entropy(np.append(p, 1 - p.sum()), w) < 1e-4
    assert middles[0] < exact.ppf(1e-6) + 0.1 and middles[-1] > exact.ppf(1 - 1e-6) - 0.1


def test_tables_are_the_same_in_both_precisions_and_again(x64):
    double = tables.from_density(RealLineDensity(np.ones(1), 1.0, 2.0, base="normal"), step=0.1)
    single = tables.from_density(NORMAL, step=0.1)  # its parameters are exact in single precision
    again = tables.from_density(NORMAL, step=0.1)
    assert double.fingerprint == single.fingerprint == again.fingerprint
    assert tables.from_density(NORMAL, step=0.1, offset=0.01).fingerprint != single.fingerprint


@pytest.mark.sample(1)
@pytest.mark.parametrize("step", [0.25, 0.3, 2.0, 7.0])
def test_on_a_bounded_support_nothing_is_left_out(step):
    a = np.array([1.0, 0.3 - 0.4j, 0.2])
    for density in (PeriodicDensity(a), ReflectedDensity(a.real)):
        table = tables.from_density(density, step=step, escape=False)
        ends = table.quantise([-1.0, 1.0])
        assert table.contains(ends).all()
        middles = table.dequantise(table.low + np.arange(table.symbols))
        lower, upper = np.clip(middles - step / 2, -1, 1), np.clip(middles + step / 2, -1, 1)
        p = np.diff(np.asarray(density.cdf(np.append(lower, upper[-1]))))
        np.testing.assert_allclose(table.frequencies / TOTAL, p, atol=1e-5)


def test_a_model_without_quantiles_is_searched_by_its_distribution_function():
    model = deep_factorized.init_deep_factorized(jax.random.key(0), (3,), scale=3.0)
    table = tables.from_density(model, step=0.5, tail=1e-4)
    ends = table.dequantise(table.low + np.array([-0.5, table.symbols - 0.5]))
    low, high = (float(model.cdf(jnp.asarray(end))) for end in ends)
    outside = low + 1 - high
    assert 0 < outside < 2.1e-4


@given(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=40).filter(lambda p: sum(p) > 1e-3),
    st.booleans(),
)
def test_any_masses_give_a_table(masses, escape):
    scaled = np.array(masses) / (1.001 * sum(masses)) if escape else np.array(masses)
    table = tables.from_masses(scaled, -3, escape=escape)
    w = table.frequencies
    assert w.sum() == TOTAL and w.min() >= 1
    p = np.append(scaled, 1 - scaled.sum()) if escape else scaled / scaled.sum()
    assert np.abs(w / TOTAL - p).max() <= (w.size + 2) / TOTAL


def test_frequencies_in_batches_are_those_of_every_row():
    p = np.random.default_rng(0).random((5, 4, 7))
    w = tables.frequencies(p)
    assert (w.sum(-1) == TOTAL).all()
    np.testing.assert_array_equal(w[3, 2], tables.frequencies(p[3, 2]))


def test_symbols_of_values_and_back():
    table = tables.from_density(NORMAL, step=0.5, offset=0.1)
    values = np.array([[-0.14, 0.1, 0.3], [0.36, 5.0, -1e6]])
    symbols = table.quantise(values)
    assert symbols.shape == values.shape and symbols.dtype == np.int64
    np.testing.assert_array_equal(symbols[:, 0], [0, 1])
    assert np.abs(table.dequantise(symbols) - values).max() <= 0.25 + 1e-9
    assert not table.contains(symbols)[1, 2] and table.contains(symbols).sum() == 5
    expected = 24 - np.log2(table.frequencies[symbols[0] - table.low])
    np.testing.assert_allclose(table.bits(symbols[0]), expected)
    assert table.bits(symbols[1, 2]) == 24 - np.log2(table.frequencies[-1])


def test_a_table_survives_as_bytes():
    table = tables.from_density(NORMAL, step=0.5, offset=0.1)
    again = Table.from_bytes(table.to_bytes())
    assert again.fingerprint == table.fingerprint
    assert (again.low, again.step, again.offset) == (table.low, 0.5, 0.1)
    data = table.to_bytes()
    for bad in (b"", data[:-1], data[:-4], data[:40], b"x" * len(data)):
        with pytest.raises(ValueError):
            Table.from_bytes(bad)


@pytest.mark.parametrize(
    "error, arguments",
    [
        ("step, offset", {"step": 0.0}),
        ("step, offset", {"step": np.nan}),
        ("step, offset", {"offset": np.inf}),
        ("step: expected at most", {"step": 1e-9}),
        ("tail", {"tail": 0.0}),
        ("tail", {"tail": 0.5}),
    ],
)
def test_bad_arguments_are_named(error, arguments):
    with pytest.raises(ValueError, match=error):
        tables.from_density(NORMAL, **arguments)


def test_bad_densities_masses_and_values_are_named():
    with pytest.raises(ValueError, match="a batch"):
        tables.from_density(RealLineDensity(np.ones((2, 1)), 0.0, 1.0))
    for masses in ([], [[1.0]], [-1.0, 2.0], [np.nan], [0.0, 0.0]):
        with pytest.raises(ValueError, match="masses"):
            tables.from_masses(masses)
    with pytest.raises(ValueError, match="frequencies"):
        Table(np.array([TOTAL, 1]), 0, 1.0, 0.0, False)
    with pytest.raises(ValueError, match="frequencies"):
        Table(np.array([TOTAL, 0]), 0, 1.0, 0.0, False)
    with pytest.raises(ValueError, match="frequencies"):
        Table(np.array([1.0 * TOTAL]), 0, 1.0, 0.0, False)
    table = tables.from_density(NORMAL, step=0.5, escape=False)
    with pytest.raises(ValueError, match="finite numbers, got nan at"):
        table.quantise([[0.0, np.nan]])
    with pytest.raises(ValueError, match="2\\^62"):
        table.quantise(1e300)
    with pytest.raises(ValueError, match="no escape, got 1000"):
        table.indices(np.array([0, 1000]))


def test_a_fit_is_told_from_its_density():
    found = fourier_density.fit(np.random.default_rng(0).uniform(-1, 1, 50), 1)
    with pytest.raises(ValueError, match=r"density: expected one \(of a Fit its `density`\)"):
        inspect.unwrap(tables.from_density)(found, step=0.1)
