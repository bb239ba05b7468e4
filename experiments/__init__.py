"""Experiments that reproduce figures and claims, and the command line that runs them."""
