"""Flax Linen modules that own the parameters of a mixer and call its functions, nothing else.

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
    """Base class: the parameters of one mixer, and its functions as methods.

    Attributes:
        config: that of the mixer, for instance an `s4.Config` for `S4`.
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
    """An S4 layer; `config` is an `s4.Config`."""

    make = staticmethod(s4.mixer)


class S4D(Shell):
    """An S4D layer; `config` is an `s4d.Config`."""

    make = staticmethod(s4d.mixer)


class DSS(Shell):
    """A DSS layer; `config` is a `dss.Config`."""

    make = staticmethod(dss.mixer)


class S5(Shell):
    """An S5 layer; `config` is an `s5.Config`."""

    make = staticmethod(s5.mixer)


class RTF(Shell):
    """An RTF layer; `config` is an `rtf.Config`."""

    make = staticmethod(rtf.mixer)


class Mamba(Shell):
    """A Mamba block; `config` is a `selective.Config`."""

    make = staticmethod(selective.mixer)


class Mamba2(Shell):
    """A Mamba-2 block; `config` is an `ssd.Config`."""

    make = staticmethod(ssd.mixer)


class GatedRTF(Shell):
    """A gated (Hyena-like) block around RTF filters; `config` is a `gated.Config`."""

    make = staticmethod(gated.mixer)


class Stack(Shell):
    """A deep sequence model around any mixer.

    Attributes:
        config: a `stack.Config`.
        mixer: that of every layer, for instance `s4.mixer(...)`.
    """

    mixer: Mixer

    @property
    def functions(self) -> Mixer:
        """Those of `stack.model`."""
        return stack.model(self.config, self.mixer)

    def __call__(self, u: Any, train: bool = False, **options: Any) -> Array:
        """Outputs for whole signals; `train` means dropout (RNG "dropout"), batch statistics."""
        key = self.make_rng("dropout") if train and self.config.dropout else None
        return self.functions.apply(self.weights, u, key=key, train=train, **options)
