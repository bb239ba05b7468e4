"""Experiments of the package `diffusion`."""
