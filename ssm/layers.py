"""Linen shells: they own parameters and call the functions of a mixer, nothing else.

layer = S4D(s4d.Config(channels=8))
variables = layer.init(key, u)                            # u [B, L, H]
y = layer.apply(variables, u)                             # a whole signal
prepared = layer.apply(variables, method="prepare")       # once, then step by step:
state, y_t = layer.step(prepared, layer.init_state(batch), u_t)
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import unfreeze
from jax import Array

from ssm import dss, s4, s4d, s5, stack
from ssm.mixer import Mixer


class Shell(nn.Module):
    """What the shells have in common; each says which `functions` it calls."""

    @property
    def functions(self) -> Mixer:
        """The six functions (see `mixer.Mixer`)."""
        raise NotImplementedError

    def setup(self):
        """Own the parameters, one tree."""
        self.tree = self.param("weights", self.functions.init)

    @property
    def weights(self) -> Any:
        """The parameters in the plain dictionaries that the functions take."""
        return unfreeze(self.tree)

    def __call__(self, u: Any, **options: Any) -> Array:
        """Outputs for whole signals; options are those of the mixer's `apply`."""
        return self.functions.apply(self.weights, u, **options)

    def prepare(self) -> Any:
        """What `step` needs, computed once."""
        return self.functions.prepare(self.weights)

    def prefill(self, u: Any, state: Any, lengths: Any = None) -> tuple[Any, Array]:
        """The state after prefixes, and their outputs."""
        return self.functions.prefill(self.weights, u, state, lengths)

    @nn.nowrap
    def init_state(self, batch: int, capacity: int = 0, dtype: Any = jnp.float32) -> Any:
        """The state before the first step."""
        return self.functions.init_state(batch, capacity, dtype)

    @nn.nowrap
    def step(self, prepared: Any, state: Any, u: Array) -> tuple[Any, Array]:
        """One step; needs no parameters but `prepared`."""
        return self.functions.step(prepared, state, u)


class S4(Shell):
    """A layer of S4."""

    config: s4.Config

    @property
    def functions(self) -> Mixer:
        """Those of `s4.mixer`."""
        return s4.mixer(self.config)


class S4D(Shell):
    """A layer of S4D."""

    config: s4d.Config

    @property
    def functions(self) -> Mixer:
        """Those of `s4d.mixer`."""
        return s4d.mixer(self.config)


class DSS(Shell):
    """A layer of DSS."""

    config: dss.Config

    @property
    def functions(self) -> Mixer:
        """Those of `dss.mixer`."""
        return dss.mixer(self.config)


class S5(Shell):
    """A layer of S5."""

    config: s5.Config

    @property
    def functions(self) -> Mixer:
        """Those of `s5.mixer`."""
        return s5.mixer(self.config)


class Stack(Shell):
    """A deep sequence model around any mixer.

    Attributes:
        config: sizes.
        mixer: the six functions of its mixers, for instance `s4.mixer(...)`.
    """

    config: stack.Config
    mixer: Mixer

    @property
    def functions(self) -> Mixer:
        """Those of `stack.model`."""
        return stack.model(self.config, self.mixer)

    def __call__(self, u: Any, train: bool = False, **options: Any) -> Array:
        """Outputs for whole signals; training draws dropout from the stream "dropout"."""
        key = self.make_rng("dropout") if train and self.config.dropout else None
        return self.functions.apply(self.weights, u, key=key, **options)
