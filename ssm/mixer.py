"""The interface every sequence mixer offers: six pure functions over a frozen config."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ssm import short_convolution, signals

Params = Any
State = Any


class Mixer(NamedTuple):
    """Parallel and recurrent views of one set of parameters.

    Attributes:
        init: key -> params, real arrays.
        apply: (params, u[B, L, H] or [L, H]) -> y of the same shape, parallel over time.
        prepare: params -> prepared; discretises once, outside the decoding loop.
        prefill: (params, u[B, L, H], state, lengths=None) -> (state, y): continues from a state
            over the first `lengths[B]` steps of a right-padded signal; y beyond is meaningless.
        init_state: (batch, capacity, dtype) -> zero state, of the same size for every `capacity`.
        step: (prepared, state, u_t[B, H]) -> (state, y_t[B, H]), a `lax.scan` body.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]
    prepare: Callable[[Params], Params]
    prefill: Callable[..., tuple[State, Array]]
    init_state: Callable[..., State]
    step: Callable[[Params, State, Array], tuple[State, Array]]


def over_systems(
    *,
    shape: tuple[int, ...],
    init: Callable[[Array], Params],
    system: Callable[[Params], Any],
    apply: Callable[..., Array],
    prepare: Callable[[Any], Any],
    prefill: Callable[..., tuple[State, Array]],
    step: Callable[[Any, State, Array], tuple[State, Array]],
    paired: bool = True,
) -> Mixer:
    """A mixer from functions of a system, for parameters that stand for one.

    Args:
        shape: of the state of one example.
        paired: whether it is a pair of real arrays, complex, or one.
        system: params -> system; the first argument of `apply`, `prepare` and `prefill`. It gets
            the parameters in single precision at least: kernels take phases apart bit by bit.

    Raises:
        ValueError: in its `step`, of parameters that have not been prepared.
    """

    def wide(params: Params) -> Any:
        return system(jax.tree.map(signals.real, params))

    def next_step(prepared: Any, state: State, u: Array) -> tuple[State, Array]:
        if isinstance(prepared, dict):
            raise ValueError("prepared: expected what prepare(params) returns, got parameters")
        return step(prepared, state, u)

    def start(batch: int, capacity: int = 0, dtype: Any = None) -> State:
        del capacity  # the state has one size
        state = signals.at_rest(batch, *shape, dtype=dtype)
        return state if paired else state[0]

    return Mixer(
        init=init,
        apply=lambda params, u, *rest, **options: apply(wide(params), u, *rest, **options),
        prepare=lambda params: prepare(wide(params)),
        prefill=lambda params, u, state, lengths=None: prefill(wide(params), u, state, lengths),
        init_state=start,
        step=next_step,
    )


def over_blocks(
    *,
    channels: int,
    convolved: int,
    width: int,
    shape: tuple[int, ...],
    init: Callable[[Array], Params],
    run: Callable[..., tuple[State, Array]],
    step: Callable[[Params, State, Array], tuple[State, Array]],
) -> Mixer:
    """A mixer of a short convolution in front of a recurrence, whose whole view is its prefill.

    Its state is the convolution's last inputs [B, W - 1, .] and that of the recurrence [B, *shape].

    Args:
        channels: d.
        convolved, width: channels of the convolution, and W.
        run: (params, u[B, L, d], state, lengths[B]) -> (state, y[B, L, d]), from signals that are
            checked and wide enough.
    """

    def init_state(batch: int, capacity: int = 0, dtype: Any = None) -> State:
        del capacity  # the state has one size
        last = short_convolution.init_state(batch, convolved, width, dtype)
        return last, signals.at_rest(batch, *shape, dtype=dtype)[0]

    def apply(params: Params, u: Any) -> Array:
        u = signals.real(signals.signal(u, channels))
        batched = u.reshape(-1, *u.shape[-2:])
        lengths = jnp.full(batched.shape[0], u.shape[-2])
        state = init_state(batched.shape[0], dtype=u.dtype)
        return run(params, batched, state, lengths)[1].reshape(u.shape)

    def prefill(params: Params, u: Any, state: State, lengths: Any = None) -> tuple[State, Array]:
        u, lengths = signals.prefix(u, channels, lengths)
        signals.check_state((state[1], state[1]), (u.shape[0], *shape))
        return run(params, signals.real(u), state, lengths)

    return Mixer(init, apply, lambda params: params, prefill, init_state, step)


def both_ways(forward: Mixer, backward: Mixer) -> Mixer:
    """The sum of a mixer and of another that reads from the end; it cannot be streamed.

    With linear mixers, zeros appended to a signal do not change the outputs before them.
    """

    def init(key: Array) -> Params:
        first, second = jax.random.split(key)
        return {"forward": forward.init(first), "backward": backward.init(second)}

    def apply(params: Params, u: Any, **options: Any) -> Array:
        y = backward.apply(params["backward"], jnp.flip(u, axis=-2), **options)
        return forward.apply(params["forward"], u, **options) + jnp.flip(y, axis=-2)

    return Mixer(init, apply, no_steps, no_steps, no_steps, no_steps)


def no_steps(*_: Any, **__: Any) -> Any:
    """What a bidirectional mixer has in place of `prepare`, `prefill`, `init_state` and `step`.

    Raises:
        ValueError: always.
    """
    raise ValueError("backward: a bidirectional system needs the whole signal, it has no steps")
