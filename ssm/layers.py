"""Linen shells: they own parameters and call the functions of a mixer, nothing else.

layer = S4D(s4d.Config(channels=8))
variables = layer.init(key, u)                            # u [B, L, H]
y = layer.apply(variables, u)                             # a whole signal
prepared = layer.apply(variables, method="prepare")       # once, then step by step:
state, y_t = layer.step(prepared, layer.init_state(batch), u_t)
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
from flax.core import unfreeze
from jax import Array

from ssm import dss, gated, rtf, s4, s4d, s5, selective, ssd, stack
from ssm.mixer import Mixer


class Shell(nn.Module):
    """What the shells have in common.

    Attributes:
        config: of the mixer that `make` builds.
    """

    config: Any
    make: ClassVar[Callable[[Any], Mixer]]

    @property
    def functions(self) -> Mixer:
        """The six functions (see `mixer.Mixer`)."""
        return type(self).make(self.config)

    def setup(self) -> None:
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
    def init_state(self, batch: int, capacity: int = 0, dtype: Any = None) -> Any:
        """The state before the first step."""
        return self.functions.init_state(batch, capacity, dtype)

    @nn.nowrap
    def step(self, prepared: Any, state: Any, u: Array) -> tuple[Any, Array]:
        """One step; needs no parameters but `prepared`."""
        return self.functions.step(prepared, state, u)


class S4(Shell):
    """A layer of S4."""

    make = staticmethod(s4.mixer)


class S4D(Shell):
    """A layer of S4D."""

    make = staticmethod(s4d.mixer)


class DSS(Shell):
    """A layer of DSS."""

    make = staticmethod(dss.mixer)


class S5(Shell):
    """A layer of S5."""

    make = staticmethod(s5.mixer)


class RTF(Shell):
    """A layer of RTF."""

    make = staticmethod(rtf.mixer)


class Mamba(Shell):
    """A Mamba block."""

    make = staticmethod(selective.mixer)


class Mamba2(Shell):
    """A Mamba-2 block."""

    make = staticmethod(ssd.mixer)


class GatedRTF(Shell):
    """A gated block around RTF filters."""

    make = staticmethod(gated.mixer)


class Stack(Shell):
    """A deep sequence model around any mixer.

    Attributes:
        config: sizes.
        mixer: the six functions of its mixers, for instance `s4.mixer(...)`.
    """

    mixer: Mixer

    @property
    def functions(self) -> Mixer:
        """Those of `stack.model`."""
        return stack.model(self.config, self.mixer)

    def __call__(self, u: Any, train: bool = False, **options: Any) -> Array:
        """Outputs for whole signals; training draws dropout from the stream "dropout"."""
        key = self.make_rng("dropout") if train and self.config.dropout else None
        return self.functions.apply(self.weights, u, key=key, train=train, **options)
