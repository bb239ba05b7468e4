"""Fourier basis density models: 1-D densities as squared trigonometric polynomials.

Source: De la Fuente, Singh, Balle, "Fourier Basis Density Model" (arXiv 2402.15345);
Su Jianlin's post https://kexue.fm/archives/10007.
"""

from fourier_density import (
    angles,
    autoregressive,
    baselines,
    coding,
    deep_factorized,
    entropy_model,
    factorisation,
    fitting,
    heads,
    interop,
    layers,
    masses,
    networks,
    sampling,
    series,
    splines,
    tables,
    transforms,
)
from fourier_density.density import PeriodicDensity
from fourier_density.fitting import Fit, fit, fit_weights
from fourier_density.real_line import RealLineDensity
from fourier_density.reflected import ReflectedDensity

__all__ = [
    "Fit",
    "PeriodicDensity",
    "RealLineDensity",
    "ReflectedDensity",
    "angles",
    "autoregressive",
    "baselines",
    "coding",
    "deep_factorized",
    "entropy_model",
    "factorisation",
    "fit",
    "fit_weights",
    "fitting",
    "heads",
    "interop",
    "layers",
    "masses",
    "networks",
    "sampling",
    "series",
    "splines",
    "tables",
    "transforms",
]
