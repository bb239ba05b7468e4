"""The interface every sequence mixer offers: six pure functions over a frozen config."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

Params = Any
State = Any


class Mixer(NamedTuple):
    """Parallel and recurrent views of one set of parameters.

    Attributes:
        init: key -> params, real arrays.
        apply: (params, u[B, L, H] or [L, H]) -> y of the same shape, parallel over time.
        prepare: params -> prepared; discretises once, outside the decoding loop.
        prefill: (params, u[B, L, H], state, lengths=None) -> (state, y): continues from a state
            over the first `lengths[B]` steps of a right-padded signal; y beyond means nothing.
        init_state: (batch, capacity, dtype) -> state; the state does not grow with `capacity`.
        step: (prepared, state, u_t[B, H]) -> (state, y_t[B, H]), a `lax.scan` body.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]
    prepare: Callable[[Params], Params]
    prefill: Callable[..., tuple[State, Array]]
    init_state: Callable[..., State]
    step: Callable[[Params, State, Array], tuple[State, Array]]
