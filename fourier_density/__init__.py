"""Fourier basis density models: 1-D densities as squared trigonometric polynomials.

Source: De la Fuente, Singh, Balle, "Fourier Basis Density Model" (arXiv 2402.15345);
Su Jianlin's post https://kexue.fm/archives/10007.
"""

from fourier_density import fitting, series
from fourier_density.density import PeriodicDensity
from fourier_density.fitting import Fit, fit, fit_weights

__all__ = ["Fit", "PeriodicDensity", "fit", "fit_weights", "fitting", "series"]
