"""Experiments on Fourier basis densities."""
