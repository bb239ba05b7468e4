"""Decoders made into others: grouped-query attention into MLA, fewer heads, latents, conventions.

Notation
    W_K, W_V   keys and values of grouped-query attention, [d, K d_h] each
    D, U       MLA's projections down and up, `down` [d, d_c] and `up` [d_c, H (d_n + d_v)]
    C          second moment of what the layer reads, [d, d]

Without rotary embedding grouped-query attention is MLA: D = [W_K W_V], so that 2 K d_h numbers are
cached as before, and U picks for each head the block of its group (`to_latent`, exact). With MLA a
cache may be any number r of latents. The keys and values of all heads nearest to M = D U in the
mean over what the layer reads, |C^(1/2) (M - M_r)|, are M Q Q^T, Q the first r right singular
vectors of C^(1/2) M: D becomes D U Q and U becomes Q^T (`truncate`). With C = 1 this is the plain
joint SVD of keys and values.

Source: Meng et al., TransMLA (arXiv 2502.07864): this is its step without rotary
dimensions; https://kexue.fm/archives/10091 for MLA as a generalisation.
"""

from dataclasses import replace
from typing import Any, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import checks, rope, transformer
from attention.feed_forward import feed_forward
from attention.grouped import GroupedConfig
from attention.latent import LatentConfig
from attention.norm import rms_norm
from attention.transformer import TransformerConfig

Params = dict[str, Any]


def to_latent(params: Params, config: TransformerConfig) -> tuple[Params, TransformerConfig]:
    """The same decoder with multi-head latent attention, exactly, its cache as large as before.

    Raises:
        ValueError: attention that is not grouped-query, has rotary embedding or biases.

    Source: https://kexue.fm/archives/10091, equations 4 and 5, with maps of zeros and ones;
    https://kexue.fm/archives/11111, equation 1; Meng et al. (arXiv 2502.07864), section 4.1,
    without RoPE.
    """
    mixer = config.mixer
    if not isinstance(mixer, GroupedConfig):
        raise ValueError(f"mixer: expected grouped-query attention, got {type(mixer).__name__}")
    if mixer.rope_base is not None:
        raise ValueError(
            "rope_base: expected none: rotated keys differ by head and cannot come from one latent"
        )
    if mixer.bias or mixer.query_dim is not None:
        raise ValueError("bias, query_dim: expected neither, as MLA made of it has neither")
    width, groups = mixer.width, mixer.kv_heads
    latent = LatentConfig(
        d_model=mixer.d_model,
        n_heads=mixer.n_heads,
        latent_dim=mixer.cache_elements,
        nope_dim=width,
        rope_dim=0,
        value_dim=width,
        rope_base=None,
        latent_norm=False,
        window=mixer.window,
        kernel=mixer.kernel,
    )
    # up [2, K, d_h] x [H, 2, d_h]: keys of a head from keys of its group, values from values.
    own = jnp.arange(groups)[:, None] == jnp.arange(mixer.n_heads) // (mixer.n_heads // groups)
    pick = jnp.einsum("ab,kh,ij->akihbj", jnp.eye(2), own.astype(float), jnp.eye(width))
    pick = pick.reshape(mixer.cache_elements, -1)

    def layer(one: Params) -> Params:
        down = jnp.concatenate([one["key"], one["value"]], axis=-1)
        count = down.shape[:-2]
        up = jnp.broadcast_to(pick, (*count, *pick.shape)).astype(down.dtype)
        return {"query": one["query"], "output": one["output"], "down": down, "up": up}

    return _mapped(params, config, layer), replace(config, mixer=latent)


def average_heads(
    params: Params, config: TransformerConfig, kv_heads: int
) -> tuple[Params, TransformerConfig]:
    """Fewer key/value heads, each the mean of a group of the present ones.

    The result computes another function and has to be trained further ("uptrained"): the start from
    a multi-head checkpoint to grouped-query (several heads) or multi-query attention (one).

    Args:
        kv_heads: the new number, a divisor of the present number of key/value heads.

    Raises:
        ValueError: attention that is not grouped-query, another number of heads.

    Source: Ainslie et al., GQA (arXiv 2305.13245), section 2.1.
    """
    mixer = config.mixer
    if not isinstance(mixer, GroupedConfig):
        raise ValueError(f"mixer: expected grouped-query attention, got {type(mixer).__name__}")
    checks.whole("kv_heads", kv_heads)
    if mixer.kv_heads % kv_heads:
        raise ValueError(f"kv_heads: expected a divisor of {mixer.kv_heads}, got {kv_heads}")

    def layer(one: Params) -> Params:
        means = {}
        for name in {"key", "value", "key_bias", "value_bias"} & one.keys():
            rest = one[name].shape[:-1]
            heads = one[name].reshape(*rest, kv_heads, -1, mixer.width)
            means[name] = heads.mean(axis=-2).reshape(*rest, -1)
        return {**one, **means}

    return _mapped(params, config, layer), replace(
        config, mixer=replace(mixer, n_kv_heads=kv_heads)
    )


def truncate(
    params: Params,
    config: TransformerConfig,
    rank: int,
    moments: Float[Array, "L d d"] | None = None,
) -> tuple[Params, TransformerConfig]:
    """The nearest decoder with latents of width `rank`, by a joint SVD of all keys and values.

    Args:
        rank: from 1 to min(d_c, d, H (d_n + d_v)), the largest rank of keys and values.
        moments: C of every layer, from the function `moments`; the identity by default.

    Raises:
        ValueError: attention that is not MLA without norms; a rank or moments outside their range.

    Source: the theorem of Eckart & Young, weighted; Meng et al. (arXiv 2502.07864), section 4,
    compress keys and values together too.
    """
    mixer = config.mixer
    if not isinstance(mixer, LatentConfig) or mixer.latent_norm:
        raise ValueError(
            "mixer: expected MLA without norms of its latents, as `to_latent` makes it"
        )
    checks.whole("rank", rank)
    most = min(mixer.latent_dim, mixer.d_model, mixer.n_heads * (mixer.nope_dim + mixer.value_dim))
    if rank > most:
        raise ValueError(
            f"rank: expected at most {most}, keys and values have no more directions, got {rank}"
        )
    shape = (config.n_layers, mixer.d_model, mixer.d_model)
    if moments is not None and moments.shape != shape:
        raise ValueError(f"moments: expected {shape}, got {moments.shape}")

    def one(
        down: Array, up: Array, bias: Array | None, moment: Array | None
    ) -> tuple[Array, Array, Array]:
        bias = jnp.zeros(down.shape[1:], down.dtype) if bias is None else bias
        latents, rest = jnp.split(jnp.vstack([down, bias]), [mixer.latent_dim], axis=-1)
        wide = jnp.promote_types(down.dtype, jnp.float32)
        whole = latents.astype(wide) @ up.astype(wide)  # what is added stands in the last row
        weighted = whole[:-1] if moment is None else _root(moment.astype(wide)) @ whole[:-1]
        basis = jnp.linalg.svd(weighted, full_matrices=False)[2][:rank].T
        near = (whole @ basis).astype(down.dtype)
        new = jnp.concatenate([near, rest], axis=-1)
        return new[:-1], basis.T.astype(up.dtype), new[-1]

    done = iter(range(config.n_layers))

    def layer(stack: Params) -> Params:
        parts = []
        biases = stack.get("down_bias", [None] * len(stack["down"]))
        for down, up, bias in zip(stack["down"], stack["up"], biases, strict=True):
            index = next(done)
            parts.append(one(down, up, bias, None if moments is None else moments[index]))
        down, up, bias = (jnp.stack(side) for side in zip(*parts, strict=True))
        new = {"down": down, "up": up} | ({"down_bias": bias} if "down_bias" in stack else {})
        return {**stack, **new}

    return _mapped(params, config, layer), replace(config, mixer=replace(mixer, latent_dim=rank))


def _root(moment: Array) -> Array:
    values, vectors = jnp.linalg.eigh(moment)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T


@checks.of_parameters(transformer.init)
def moments(
    params: Params, tokens: Int[Array, "B T"], config: TransformerConfig
) -> Float[Array, "L d d"]:
    """Mean of h h^T over the inputs h of each attention layer for these tokens; see `truncate`.

    Source: Meng et al. (arXiv 2502.07864), section 4: directions of activations, not of weights.
    """
    mixer = transformer.make_mixer(config.mixer)
    x, found = transformer.embed(params, tokens, config), []
    for weights in transformer.layers_of(params, config):
        normed = rms_norm(x, weights["mixer_norm"], config.norm_eps)
        rows = normed.reshape(-1, normed.shape[-1])
        rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
        found.append(rows.T @ rows / len(rows))
        x = x + mixer.apply(weights["mixer"], normed)
        x = x + feed_forward(weights, x, config)
    return jnp.stack(found)


def change_layout(
    params: Params, config: TransformerConfig, layout: rope.Layout
) -> tuple[Params, TransformerConfig]:
    """The same decoder in another rotary layout: weights are permuted, none changes its value.

    Raises:
        ValueError: attention that is neither grouped-query nor MLA.

    Source: derived from Su et al. (arXiv 2104.09864), equation 15: the same pairs at other places.
    """
    mixer = config.mixer
    if not isinstance(mixer, GroupedConfig | LatentConfig):
        raise ValueError(f"mixer: expected grouped-query attention or MLA, got {mixer!r}")
    if layout not in get_args(rope.Layout):
        raise ValueError(f"layout: expected one of {get_args(rope.Layout)}, got {layout!r}")
    if mixer.rope_base is None or layout == mixer.rope_layout:
        return params, replace(config, mixer=replace(mixer, rope_layout=layout))
    source = mixer.rope_layout
    places: dict[str, tuple[int, int, int]]
    if isinstance(mixer, LatentConfig):
        head = mixer.nope_dim + mixer.rope_dim
        places = {
            "query": (head, mixer.nope_dim, head),
            "query_up": (head, mixer.nope_dim, head),
            "down": (mixer.cache_elements, mixer.latent_dim, mixer.cache_elements),
        }
    else:
        names = ("query", "query_up", "key")
        places = dict.fromkeys(names, (mixer.width, 0, mixer.rotated))

    def layer(stack: Params) -> Params:
        moved = {}
        for name, value in stack.items():
            if name.removesuffix("_bias") in places:
                width, start, stop = places[name.removesuffix("_bias")]
                value = rope.convert(value, width, source, layout, start, stop)
            moved[name] = value
        return moved

    return _mapped(params, config, layer), replace(config, mixer=replace(mixer, rope_layout=layout))


def _mapped(params: Params, config: TransformerConfig, layer: Any) -> Params:
    """Parameters with every stack of attention layers changed, in order."""
    changed = {
        name: {**params[name], "mixer": layer(params[name]["mixer"])} for name in config.stacks
    }
    return {**params, **changed}
