"""Changes to a mixer, whichever it is: matrices of low rank, a shift in front."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attention import Mixer, TransformerConfig, transformer
from attention.linear import fan_in_normal

Params = dict[str, Any]


def low_rank(decoder: TransformerConfig, rank: int) -> Mixer:
    """The decoder's attention with queries' and outputs' projections of a low rank."""
    inner, residual = transformer.make_mixer(decoder.mixer), (2 * decoder.n_layers) ** -0.5

    def init(key: Any) -> Params:
        params = dict(inner.init(key))
        for number, name in enumerate(("query", "output")):
            rows, columns = params.pop(name).shape
            sizes = {f"{name}_in": (rows, rank), f"{name}_out": (rank, columns)}
            params |= fan_in_normal(jax.random.fold_in(key, number), sizes)
        return params | {"output_out": params["output_out"] * residual}

    def whole(params: Params) -> Params:
        made = {name: params[f"{name}_in"] @ params[f"{name}_out"] for name in ("query", "output")}
        return {**params, **made}

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args, **given: function(whole(params), *args, **given)

    names = ["apply", "prepare", "prefill", *(["extend"] if inner.extend else [])]
    return inner._replace(init=init, **{name: wrapped(getattr(inner, name)) for name in names})


def shifted(inner: Mixer, width: int) -> Mixer:
    """Every token with the one before it added, by a learned factor a channel, in front of a mixer.

    A convolution over two tokens: it binds neighbours, which attention alone takes a layer and a
    long plateau of training for. Its state is one token, however long the sequence.
    """

    def mixed(params: Params, x: jax.Array, last: jax.Array) -> jax.Array:
        before = jnp.concatenate([last[:, None], x[:, :-1]], axis=1)
        return x + params["shift"].astype(x.dtype) * before

    def apply(params: Params, x: jax.Array, **given: Any) -> jax.Array:
        return inner.apply(params, mixed(params, x, jnp.zeros_like(x[:, 0])), **given)

    def prepare(params: Params) -> Params:
        return {"shift": params["shift"], "inner": inner.prepare(params)}

    def init_state(batch: int, capacity: int, dtype: Any = jnp.float32) -> Any:
        return jnp.zeros((batch, width), dtype), inner.init_state(batch, capacity, dtype)

    def read(reader: Callable[..., Any]) -> Callable[..., Any]:
        def chunk(params: Params, x: jax.Array, state: Any, lengths: Any = None) -> Any:
            last, rest = state
            rest, y = reader(params, mixed(params, x, last), rest, lengths)
            ends = jnp.full(len(x), x.shape[1]) if lengths is None else lengths
            every = jnp.concatenate([last[:, None].astype(x.dtype), x], axis=1)
            final = jnp.take_along_axis(every, ends[:, None, None], axis=1)[:, 0]
            return (final.astype(last.dtype), rest), y

        return chunk

    def step(prepared: Params, state: Any, x: jax.Array) -> Any:
        last, rest = state
        rest, y = inner.step(prepared["inner"], rest, mixed(prepared, x[:, None], last)[:, 0])
        return (x.astype(last.dtype), rest), y

    return Mixer(
        init=lambda key: {**inner.init(key), "shift": jnp.ones(width)},
        apply=apply,
        prepare=prepare,
        prefill=read(inner.prefill),
        init_state=init_state,
        step=step,
        extend=None if inner.extend is None else read(inner.extend),
    )
