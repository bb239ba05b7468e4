"""A pre-norm decoder (RMSNorm, SwiGLU) as plain functions over stacked parameters.

Notation
    B, T, V, d, L  batch, time, vocabulary, model dimension, layers
    params         embedding [V, d]; layers: every leaf stacked to [L, ...]; final_norm [d];
                   head [d, V] unless tied to the embedding; with experts, expert_layers are those
                   behind the first `dense_layers`, a stack of their own

The mixer (attention, or any `Mixer`) is an argument; by default it is made from
`config.mixer`. Whole sequences run through the layers under `lax.scan`, so a deeper model does not
compile longer. Single tokens go from layer to layer in a plain loop, with parameters and caches
kept separately for each layer: a scan would copy both in every layer for every token.

Source: Shazeer, SwiGLU (arXiv 2002.05202); Touvron et al., Llama (2302.13971).
"""

import functools
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import checks, experts, grouped, grouped_latent, latent, tied
from attention.ends import embed, final, unembed
from attention.experts import ExpertsConfig
from attention.feed_forward import drop, feed_forward
from attention.linear import fan_in_normal, zero_biases
from attention.mixer import Mixer
from attention.norm import rms_norm

Remat = Literal["none", "matmuls", "all"]
MixerConfig = (
    grouped.GroupedConfig
    | latent.LatentConfig
    | tied.TiedConfig
    | grouped_latent.GroupedLatentConfig
)
MAKERS = {
    grouped.GroupedConfig: grouped.mixer,
    latent.LatentConfig: latent.mixer,
    tied.TiedConfig: tied.mixer,
    grouped_latent.GroupedLatentConfig: grouped_latent.mixer,
}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a decoder.

    Attributes:
        vocab_size: V, number of tokens in the vocabulary.
        n_layers: L, number of layers.
        mixer: configuration of the attention layers; its `d_model` is the model's.
        d_ff: hidden width of SwiGLU; None means 8 d / 3 rounded up to a multiple of 32.
        ffn_bias: biases of SwiGLU's three matrices.
        experts: of all layers but the first `dense_layers`; None for SwiGLU in all layers.
        dense_layers: number of first layers that keep SwiGLU when there are experts.
        tie_embeddings: use the embedding as output head.
        norm_eps: epsilon of RMSNorm.
        remat: what the backward pass recomputes instead of storing it (rematerialisation): "none",
            all but the results of products with weights ("matmuls"), or "all" of a layer.
    """

    vocab_size: int = 256
    n_layers: int = 4
    mixer: MixerConfig = field(default_factory=grouped.GroupedConfig)
    _: KW_ONLY
    d_ff: int | None = None
    ffn_bias: bool = False
    experts: ExpertsConfig | None = None
    dense_layers: int = 0
    tie_embeddings: bool = True
    norm_eps: float = 1e-5
    remat: Remat = "matmuls"

    def __post_init__(self):
        checks.sizes(self, "vocab_size", "n_layers", "d_ff")
        if type(self.mixer) not in MAKERS:
            raise ValueError(
                f"mixer: expected one of {[kind.__name__ for kind in MAKERS]}, got {self.mixer!r}"
            )
        checks.whole("dense_layers", self.dense_layers, 0)
        if self.dense_layers > (self.n_layers if self.experts else 0):
            raise ValueError(
                f"dense_layers: expected at most n_layers, and 0 without experts, got "
                f"{self.dense_layers}"
            )
        if not self.norm_eps >= 0:
            raise ValueError(f"norm_eps: expected at least 0, got {self.norm_eps}")
        if self.remat not in get_args(Remat):
            raise ValueError(f"remat: expected one of {get_args(Remat)}, got {self.remat!r}")

    @property
    def d_model(self) -> int:
        """d, width of the residual stream."""
        return self.mixer.d_model

    @property
    def hidden(self) -> int:
        """Hidden width of SwiGLU, with the default resolved."""
        return -(-8 * self.d_model // 96) * 32 if self.d_ff is None else self.d_ff

    @property
    def stacks(self) -> dict[str, int]:
        """Names of the stacks of layers in the parameters, and how many each has."""
        if self.experts is None:
            return {"layers": self.n_layers}
        rest = self.n_layers - self.dense_layers
        both = {"layers": self.dense_layers, "expert_layers": rest}
        return {name: count for name, count in both.items() if count}


@functools.lru_cache(maxsize=64)
def make_mixer(config: MixerConfig) -> Mixer:
    """The `Mixer` of a configuration of attention."""
    return MAKERS[type(config)](config)


def init(key: Array, config: TransformerConfig, mixer: Mixer | None = None) -> dict[str, Any]:
    """Parameters in float32; residual projections are scaled down by (2 L)^(-1/2).

    Raises:
        ValueError: no configuration of a decoder.
    """
    _check_config(config)
    mixer = mixer or make_mixer(config.mixer)
    d, hidden = config.d_model, config.hidden
    residual = (2 * config.n_layers) ** -0.5

    def layer(key: Array, name: str) -> dict[str, Any]:
        mixer_key, ffn_key = jax.random.split(key)
        attention = mixer.init(mixer_key)
        if name == "expert_layers" and config.experts is not None:
            ffn = experts.init(ffn_key, d, config.experts)
        else:
            matrices = {"gate": (d, hidden), "up": (d, hidden), "down": (hidden, d)}
            ffn = fan_in_normal(ffn_key, matrices)
            ffn |= zero_biases(matrices) if config.ffn_bias else {}
        if "output" in attention:
            attention = {**attention, "output": attention["output"] * residual}
        ffn = {**ffn, "down": ffn["down"] * residual}
        if "shared" in ffn:
            ffn["shared"] = {**ffn["shared"], "down": ffn["shared"]["down"] * residual}
        return {
            "mixer": attention,
            "mixer_norm": jnp.ones(d),
            "ffn_norm": jnp.ones(d),
            "ffn": ffn,
        }

    embedding_key, layer_key, head_key = jax.random.split(key, 3)
    keys, params = jax.random.split(layer_key, config.n_layers), {}
    for name, count in config.stacks.items():
        params[name] = jax.vmap(functools.partial(layer, name=name))(keys[:count])
        keys = keys[count:]
    params |= {
        "embedding": jax.random.normal(embedding_key, (config.vocab_size, d)) * 0.02,
        "final_norm": jnp.ones(d),
    }
    if not config.tie_embeddings:
        params |= fan_in_normal(head_key, {"head": (d, config.vocab_size)})
    return params


@checks.of_parameters(init)
def apply(
    params: dict[str, Any],
    tokens: Int[Array, "B T"],
    config: TransformerConfig,
    positions: Int[Array, "B T"] | None = None,
    mask: Array | None = None,
    *,
    mixer: Mixer | None = None,
    dtype: Any = None,
    logits_dtype: Any = None,
    dropout: float = 0.0,
    key: Array | None = None,
) -> Float[Array, "B T V"]:
    """Logits of the next token at every position.

    Args:
        positions, mask: passed to the mixer (see `grouped.apply`).
        dtype: dtype of the activations; that of the embedding by default.
        logits_dtype: of the logits; that of the activations by default. Losses of half-precision
            activations want float32.
        dropout, key: rate and random key of dropout on the embeddings and on what layers add to
            the residual stream, for training; no dropout without a key.

    Raises:
        ValueError: as `embed`; a dropout outside [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a share in [0, 1), got {dropout}")
    context = {"positions": positions, "mask": mask}
    context = {name: jnp.asarray(v) for name, v in context.items() if v is not None}
    first, key = (None, None) if key is None else jax.random.split(key)
    x = embed(params, tokens, config)
    x = drop(first, x if dtype is None else x.astype(dtype), dropout)
    x = _through(params, x, key if dropout else None, context, config, mixer, float(dropout))
    return unembed(params, x, config, logits_dtype)


@functools.partial(jax.jit, static_argnames=("config", "mixer", "dropout"), inline=True)
def _through(
    params: dict[str, Any],
    x: Array,
    key: Array | None,
    context: dict[str, Any],
    config: TransformerConfig,
    mixer: Mixer | None,
    dropout: float,
) -> Array:
    """All layers of `apply`; compiled once where it is called outside of `jit`."""
    mixer = mixer or make_mixer(config.mixer)

    def layer(x: Array, inputs: tuple[dict[str, Any], Any]) -> tuple[Array, None]:
        weights, keys = inputs
        first, second = (None, None) if keys is None else keys
        normed = rms_norm(x, weights["mixer_norm"], config.norm_eps)
        y = mixer.apply(weights["mixer"], normed, **context).astype(x.dtype)
        x = x + drop(first, y, dropout)
        return x + drop(second, feed_forward(weights, x, config), dropout), None

    for number, (name, count) in enumerate(config.stacks.items()):
        keys = None
        if key is not None:
            keys = jax.random.split(jax.random.fold_in(key, number), (count, 2))
        x, _ = jax.lax.scan(_rematerialised(layer, config.remat), x, (params[name], keys))
    return x


@checks.of_parameters(init)
def prepare(
    params: dict[str, Any], config: TransformerConfig, mixer: Mixer | None = None
) -> dict[str, Any]:
    """Parameters for `step`: a tuple of layers, with what the mixer can compute in advance."""
    mixer = mixer or make_mixer(config.mixer)
    rest = {name: value for name, value in params.items() if name not in config.stacks}
    stacks = {}
    for name in config.stacks:
        stacks[name] = {**params[name], "mixer": jax.vmap(mixer.prepare)(params[name]["mixer"])}
    return {**rest, "layers": layers_of(stacks, config)}


def layers_of(params: dict[str, Any], config: TransformerConfig) -> tuple[Any, ...]:
    """A tuple of all layers, from the stacks of the parameters."""
    return sum((_apart(params[name], count) for name, count in config.stacks.items()), ())


def _check_config(config: object) -> None:
    if not isinstance(config, TransformerConfig):
        raise ValueError(f"config: expected a TransformerConfig, got {type(config).__name__}")


def _apart(stacked: Any, count: int) -> tuple[Any, ...]:
    """A tuple of trees, from leaves stacked to [count, ...]."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count))


def init_state(
    config: TransformerConfig,
    batch: int,
    capacity: int,
    dtype: Any = jnp.float32,
    *,
    mixer: Mixer | None = None,
) -> Any:
    """Empty caches for `capacity` tokens of each example: a tuple, one state for each layer."""
    _check_config(config)
    mixer = mixer or make_mixer(config.mixer)
    return tuple(mixer.init_state(batch, capacity, dtype) for _ in range(config.n_layers))


@checks.of_parameters(init)
def prefill(
    params: dict[str, Any],
    tokens: Int[Array, "B T"],
    state: Any,
    config: TransformerConfig,
    lengths: Int[Array, "B"] | None = None,
    *,
    mixer: Mixer | None = None,
    last: bool = False,
) -> tuple[Any, Array]:
    """Process right-padded prompts; returns the filled state and the logits.

    Args:
        lengths: live tokens of each prompt, all T by default.
        last: logits [B, V] of the last live token instead of those of every position, [B, T, V].
    """
    checks.states(state, init_state, config, mixer)
    x = embed(params, tokens, config)
    if lengths is not None:
        checks.live(lengths, *x.shape[:2])
    x, states = _read(params, x, tuple(state), lengths, config, mixer)
    x = final(x, lengths) if last else x
    return states, unembed(params, x, config)


@functools.partial(jax.jit, static_argnames=("config", "mixer"), inline=True)
def _read(
    params: dict[str, Any],
    x: Array,
    state: Any,
    lengths: Array | None,
    config: TransformerConfig,
    mixer: Mixer | None,
) -> tuple[Array, Any]:
    """All layers of `prefill`."""
    mixer = mixer or make_mixer(config.mixer)

    def layer(x: Array, inputs: tuple[Any, Any]) -> tuple[Array, Any]:
        weights, layer_state = inputs
        normed = rms_norm(x, weights["mixer_norm"], config.norm_eps)
        layer_state, y = mixer.prefill(weights["mixer"], normed, layer_state, lengths)
        x = x + y.astype(x.dtype)
        return x + feed_forward(weights, x, config), layer_state

    states = ()
    for name, count in config.stacks.items():
        part = state[len(states) : len(states) + count]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *part)
        x, stacked = jax.lax.scan(layer, x, (params[name], stacked))
        states += _apart(stacked, count)
    return x, states


@checks.of_parameters(init)
def extend(
    params: dict[str, Any],
    tokens: Int[Array, "B T"],
    state: Any,
    config: TransformerConfig,
    lengths: Int[Array, "B"] | None = None,
    *,
    mixer: Mixer | None = None,
    last: bool = False,
) -> tuple[Any, Array]:
    """Process a further chunk of every example after what the state holds: chunked prefill.

    Args:
        lengths: live tokens of each chunk, 0..T; all T by default.
        last: as in `prefill`; undefined for an example without live tokens.

    Raises:
        ValueError: the chunk does not fit, or the mixer reads no chunks.
    """
    mixer = mixer or make_mixer(config.mixer)
    reader = getattr(mixer, "extend", None)
    if reader is None:
        raise ValueError("mixer: expected one that reads chunks (`extend`), got one without")
    checks.states(state, init_state, config, mixer)
    x, states = embed(params, tokens, config), []
    for weights, layer_state in zip(layers_of(params, config), state, strict=True):
        normed = rms_norm(x, weights["mixer_norm"], config.norm_eps)
        layer_state, y = reader(weights["mixer"], normed, layer_state, lengths)
        x = x + y
        x = x + feed_forward(weights, x, config)
        states.append(layer_state)
    x = final(x, lengths) if last else x
    return tuple(states), unembed(params, x, config)


def step(
    prepared: dict[str, Any],
    state: Any,
    tokens: Int[Array, "B"],
    config: TransformerConfig,
    *,
    mixer: Mixer | None = None,
) -> tuple[Any, Float[Array, "B V"]]:
    """Process one token per example; returns the new state and the logits of the next token.

    Args:
        prepared: from `prepare`, or plain parameters, which then are prepared in every call.
    """
    mixer = mixer or make_mixer(config.mixer)
    if not isinstance(prepared.get("layers"), tuple):
        prepared = prepare(prepared, config, mixer)
    checks.states(state, init_state, config, mixer)
    x, states = embed(prepared, tokens, config, "B"), []
    for weights, layer_state in zip(prepared["layers"], state, strict=True):
        normed = rms_norm(x, weights["mixer_norm"], config.norm_eps)
        layer_state, y = mixer.step(weights["mixer"], layer_state, normed)
        x = x + y.astype(x.dtype)
        x = x + feed_forward(weights, x, config)
        states.append(layer_state)
    return tuple(states), unembed(prepared, x, config)


def _rematerialised(layer: Any, remat: Remat) -> Any:
    """The layer with what its backward pass keeps; inside a scan XLA cannot undo the choice."""
    if remat == "none":
        return layer
    policies = jax.checkpoint_policies
    keep = {"all": None, "matmuls": policies.dots_with_no_batch_dims_saveable}[remat]
    return jax.checkpoint(layer, prevent_cse=False, policy=keep)
