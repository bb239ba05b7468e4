"""Experiments on state-space models."""
