"""The interface every sequence mixer offers: pure functions over a frozen config."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

Params = Any
State = Any


class Mixer(NamedTuple):
    """Parallel and recurrent views of one set of parameters.

    Attributes:
        init: key -> params.
        apply: (params, x[B,T,d]) -> y[B,T,d], parallel over time. Attention also takes the
            keywords `positions[B,T]` and `mask` (True = may be attended to).
        prepare: params -> prepared; done once, outside the decoding loop.
        prefill: (params, x, state, lengths=None) -> (state, y): a whole right-padded prompt.
        init_state: (batch, capacity, dtype) -> state.
        step: (prepared, state, x_t[B,d]) -> (state, y_t[B,d]), a `lax.scan` body.
        extend: (params, x[B,T,d], state, lengths=None) -> (state, y): a further chunk after what
            the state holds; None for mixers that cannot.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]
    prepare: Callable[[Params], Params]
    prefill: Callable[..., tuple[State, Array]]
    init_state: Callable[..., State]
    step: Callable[[Params, State, Array], tuple[State, Array]]
    extend: Callable[..., tuple[State, Array]] | None = None
