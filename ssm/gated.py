"""A gated block around a rational transfer function: Hyena of order two with RTF filters.

Notation
    B, L, d  batch, time, channels
    params   in [d, 3 d]; convolution {weight [W, 3 d], bias}; filter, those of `rtf`; output [d, d]

    (q, k, v) = short convolution of u W_in        y = (q . RTF(k . v)) W_out

The products make a linear filter depend on its input, as attention's scores do; the filter carries
k v through time.

Source: Poli et al., Hyena (arXiv 2302.10866), order 2; Parnichkun et al., "State-free inference of
state-space models: the transfer function approach" (2405.06147), table 4 (Hyena-RTF).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ssm import checks, rtf, short_convolution, signals
from ssm.mixer import Mixer


@dataclasses.dataclass(frozen=True)
class Config:
    """A mixer of d channels.

    Attributes:
        channels: d.
        length: of the longest signal.
        size: N of the filters, below `length`.
        width: W, taps of the short convolution.
        denominators, init, constraint: of the filters (see `rtf.Config`); the defaults are those
            of the paper's language models.
    """

    channels: int
    length: int
    size: int = 64
    _: dataclasses.KW_ONLY
    width: int = 3
    denominators: int | None = None
    init: str = "xavier"
    constraint: str = "l1"

    def __post_init__(self):
        checks.sizes(self, "width")
        self.filter()

    def filter(self) -> rtf.Config:
        """The configuration of the filters, which checks its fields."""
        return rtf.Config(
            self.channels,
            self.length,
            self.size,
            denominators=self.denominators,
            init=self.init,
            constraint=self.constraint,
        )


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable gated RTF block (see `mixer.Mixer`).

    >>> layer = mixer(Config(channels=4, length=8, size=2))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 4))).shape
    (1, 5, 4)

    Source: Hyena (arXiv 2302.10866), order 2; RTF (arXiv 2405.06147), table 4 (Hyena-RTF).
    """
    checks.kind(config, Config)
    inner, d = rtf.mixer(config.filter()), config.channels

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 4)
        return {
            "in": jax.random.normal(keys[0], (d, 3 * d)) * d**-0.5,
            "convolution": short_convolution.init(keys[1], 3 * d, config.width),
            "filter": inner.init(keys[2]),
            "output": jax.random.normal(keys[3], (d, d)) * d**-0.5,
        }

    def projected(params: Any, u: Array) -> Array:
        return u @ params["in"].astype(u.dtype)

    def out(params: Any, q: Array, y: Array) -> Array:
        return (q * y.astype(q.dtype)) @ params["output"].astype(q.dtype)

    def apply(params: Any, u: Any) -> Array:
        u = signals.real(signals.signal(u, d))
        every = short_convolution.apply(params["convolution"], projected(params, u))
        q, k, v = jnp.split(every, 3, axis=-1)
        return out(params, q, inner.apply(params["filter"], k * v))

    def init_state(batch: int, capacity: int = 0, dtype: Any = None) -> Any:
        last = short_convolution.init_state(batch, 3 * d, config.width, dtype)
        return last, inner.init_state(batch, capacity, dtype)

    def prefill(params: Any, u: Any, state: Any, lengths: Any = None) -> Any:
        u, lengths = signals.prefix(u, d, lengths)
        u = signals.real(u)
        last, every = short_convolution.prefill(
            params["convolution"], projected(params, u), state[0], lengths
        )
        q, k, v = jnp.split(every, 3, axis=-1)
        rest, y = inner.prefill(params["filter"], k * v, state[1], lengths)
        return (last, rest), out(params, q, y)

    def step(prepared: Any, state: Any, u: Array) -> Any:
        signals.check_step(state[0], u, (d,), (config.width - 1, 3 * d))
        u = signals.real(u)
        last, every = short_convolution.step(
            prepared["convolution"], state[0], projected(prepared, u)
        )
        q, k, v = jnp.split(every, 3, axis=-1)
        rest, y = inner.step(prepared["filter"], state[1], k * v)
        return (last, rest), out(prepared, q, y)

    return Mixer(
        init=init,
        apply=apply,
        prepare=lambda params: {**params, "filter": inner.prepare(params["filter"])},
        prefill=prefill,
        init_state=init_state,
        step=step,
    )
