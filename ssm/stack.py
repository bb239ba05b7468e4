"""A deep sequence model around any mixer, as plain functions over stacked parameters.

Notation
    B, T, d, N  batch, time, channels, layers
    params      encoder {matrix [I, d], bias [d]} or {embedding [V, d]}; layers: every leaf
                stacked to [N, ...]; head {matrix [d, O], bias [O]}; for pre-norm a final norm

    layer       z = norm(x);  z = gelu(mixer(z));  z = glu(z W + w);  x = x + z     (pre-norm)
                x = norm(x + glu(gelu(mixer(x)) W + w))                             (post-norm)

with dropout behind gelu and behind glu, and pooling between the final norm and the head. The mixer
is an argument, and layers run under `lax.scan`: a deeper model does not compile longer. Where the
mixer streams, so does the whole model; a pooled head then answers for the signal so far.

Source: S4 (arXiv 2111.00396), appendix D.1; S4D (2206.11893), section 5.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ssm import checks, norms, pooling, signals
from ssm.mixer import Mixer

CHOICES = {
    "norm": norms.NORMS,
    "activation": ("glu", "gelu"),
    "pooling": ("none", "mean", "last"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and kinds of a model.

    Attributes:
        channels: d, the same as those of the mixer.
        outputs: O, of the head.
        inputs: I, features of a real signal; None: 1, or none at all with a vocabulary.
        vocabulary: V, number of tokens; None for a real signal.
        layers: N.
        norm: "layer" (LayerNorm), "rms" (RMSNorm) or "batch", over batch and time (see `norms`).
        prenorm: if True, norms before each mixer and the head; if False, after each residual sum.
        activation: after a mixer, "glu": GELU, linear map to 2 d, GLU; "gelu": GELU, linear map.
        dropout: rate in training, in [0, 1).
        pooling: what the head sees: every step ("none"), their "mean", or the "last" step.
        remat: recompute layers in the backward pass instead of storing their activations.
    """

    channels: int
    outputs: int
    _: dataclasses.KW_ONLY
    inputs: int | None = None
    vocabulary: int | None = None
    layers: int = 4
    norm: str = "layer"
    prenorm: bool = True
    activation: str = "glu"
    dropout: float = 0.0
    pooling: str = "none"
    remat: bool = False

    def __post_init__(self):
        checks.sizes(self, "channels", "outputs", "inputs", "vocabulary", "layers")
        if self.inputs is None and self.vocabulary is None:
            object.__setattr__(self, "inputs", 1)
        elif self.inputs is not None and self.vocabulary is not None:
            got = f"{self.inputs} and {self.vocabulary}"
            raise ValueError(f"inputs, vocabulary: expected one of them, got {got}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                expected = ", ".join(known)
                raise ValueError(f"{name}: expected one of {expected}, got {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a share in [0, 1), got {self.dropout}")


def init(key: Array, config: Config, mixer: Mixer) -> dict[str, Any]:
    """Parameters: matrices of variance 1/fan-in, embeddings of variance 1, biases of zero.

    Raises:
        ValueError: a mixer of other channels.
    """
    d = config.channels
    _check_mixer(mixer, d)
    width = 2 * d if config.activation == "glu" else d

    def layer(key: Array) -> dict[str, Any]:
        mixer_key, key = jax.random.split(key)
        return {
            "mixer": mixer.init(mixer_key),
            "norm": _unit(config),
            "out": _linear(key, d, width),
        }

    first, middle, last = jax.random.split(key, 3)
    if config.vocabulary is None:
        assert config.inputs is not None
        encoder = _linear(first, config.inputs, d)
    else:
        encoder = {"embedding": jax.random.normal(first, (config.vocabulary, d))}
    params = {
        "encoder": encoder,
        "layers": jax.vmap(layer)(jax.random.split(middle, config.layers)),
        "head": _linear(last, d, config.outputs),
    }
    return params | ({"norm": _unit(config)} if config.prenorm else {})


def _check_mixer(mixer: Mixer, channels: int) -> None:
    """Refuse one that does not take signals of these channels; nothing is computed."""
    u = jax.ShapeDtypeStruct((1, 2, channels), float)
    try:
        jax.eval_shape(lambda u: mixer.apply(mixer.init(jax.random.key(0)), u), u)
    except (TypeError, ValueError) as error:
        raise ValueError(f"mixer: expected one of {channels} channels: {error}") from None


def _linear(key: Array, rows: int, columns: int) -> dict[str, Array]:
    matrix = jax.random.normal(key, (rows, columns)) / jnp.sqrt(rows)
    return {"matrix": matrix, "bias": jnp.zeros(columns)}


def _unit(config: Config) -> dict[str, Array]:
    return norms.init(config.norm, config.channels)


def _map(weights: dict[str, Array], x: Array) -> Array:
    return x @ weights["matrix"] + weights["bias"]


def _drop(key: Array | None, x: Array, rate: float) -> Array:
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def _encode(params: dict[str, Any], u: Any, config: Config) -> Array:
    """The signal [..., I] or tokens [...] as [..., d]."""
    u = jnp.asarray(u)
    if config.vocabulary is not None:
        if not jnp.issubdtype(u.dtype, jnp.integer):
            raise ValueError(f"u: expected tokens, whole numbers, got {u.dtype}")
        known = signals.concrete(u)
        if known is not None and not ((known >= 0) & (known < config.vocabulary)).all():
            most = config.vocabulary - 1
            raise ValueError(f"u: expected 0 to {most}, got {known.min()} to {known.max()}")
        outside = jnp.where(u < 0, config.vocabulary, u.astype(int))  # not from the end
        return params["encoder"]["embedding"].at[outside].get(mode="fill", fill_value=jnp.nan)
    if u.ndim < 1 or u.shape[-1] != config.inputs or jnp.iscomplexobj(u):
        got = f"{u.dtype} {u.shape}"
        raise ValueError(f"u: expected a real signal [..., {config.inputs}], got {got}")
    return _map(params["encoder"], u)


def _block(
    weights: dict[str, Any],
    x: Array,
    config: Config,
    mix: Any,
    key: Array | None = None,
    normalise: Any = norms.apply,
) -> tuple[Array, Any]:
    """One layer; `mix` gives what the mixer makes of its input, and its new state."""
    keys = (None, None) if key is None else jax.random.split(key)
    z = normalise(weights["norm"], x) if config.prenorm else x
    z, state = mix(weights["mixer"], z)
    z = z.astype(x.dtype)  # mixers compute in float32 or wider
    z = _map(weights["out"], _drop(keys[0], jax.nn.gelu(z), config.dropout))
    z = jax.nn.glu(z) if config.activation == "glu" else z
    x = x + _drop(keys[1], z, config.dropout)
    return (x if config.prenorm else normalise(weights["norm"], x)), state


def _last(params: dict[str, Any], x: Array, config: Config, normalise: Any = norms.apply) -> Array:
    """The norm in front of pooling and head, which pre-norm needs."""
    return normalise(params["norm"], x) if config.prenorm else x


def apply(
    params: dict[str, Any],
    u: Any,
    config: Config,
    mixer: Mixer,
    *,
    key: Array | None = None,
    lengths: Any = None,
    train: bool | None = None,
    **context: Any,
) -> Array:
    """Outputs for whole signals.

    Args:
        u: real [B, T, I], or tokens [B, T].
        key: random key for dropout in training; None for no dropout.
        lengths: [B] number of valid steps of each example, 1..T, for pooled heads only; mixers
            read zeros beyond, so that bidirectional ones do not see the padding either.
        train: whether batch norms use the statistics of the batch; None: if there is a key.
        context: passed on to the mixer's `apply`, for instance `steps` of S5.

    Returns:
        [B, T, O], or [B, O] with pooling.

    Raises:
        ValueError: parameters of another configuration; signals or tokens that do not fit (NaN
            where traced); lengths without pooling.

    Source: arXiv 2111.00396, section 3.4 and appendix D.1; S4D (arXiv 2206.11893), section 5.
    """
    checks.parameters(params, init, config, mixer)
    if lengths is not None and config.pooling == "none":
        raise ValueError("lengths: only pooled heads use them")
    x = _encode(params, u, config)
    if lengths is not None:
        if x.ndim != 3:
            raise ValueError(f"lengths: expected one for each of [B, T] signals, got {x.shape}")
        lengths = signals.counted(lengths, x.shape[0], x.shape[1], 1)
    train = key is not None if train is None else train
    run = _deep if context else _compiled_deep  # mixers may look at what they are given
    return run(params, x, key, lengths, context, config=config, mixer=mixer, train=train)


def _deep(
    params: dict[str, Any],
    x: Array,
    key: Array | None,
    lengths: Array | None,
    context: dict[str, Any],
    *,
    config: Config,
    mixer: Mixer,
    train: bool,
) -> Array:
    """What `apply` does behind the encoder; compiled once where it is called outside of `jit`."""
    counts = None if lengths is None else (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
    keys = None if key is None else jax.random.split(key, config.layers)
    normalise = functools.partial(norms.apply, counts=counts, train=train)

    def layer(x: Array, inputs: tuple[Any, Any]) -> tuple[Array, None]:
        weights, key = inputs

        def mix(weights: Any, z: Array) -> tuple[Array, None]:
            z = z if counts is None else jnp.where(counts, z, 0.0)
            return mixer.apply(weights, z, **context), None

        return _block(weights, x, config, mix, key, normalise)

    body = jax.checkpoint(layer, prevent_cse=False) if config.remat else layer
    x, _ = jax.lax.scan(body, x, (params["layers"], keys))
    x = _last(params, x, config, normalise)
    x = x if config.pooling == "none" else pooling.whole(config.pooling, x, lengths)
    return _map(params["head"], x)


_compiled_deep = jax.jit(_deep, static_argnames=("config", "mixer", "train"), inline=True)


def prepare(params: dict[str, Any], config: Config, mixer: Mixer) -> dict[str, Any]:
    """Parameters for `step`: what the mixers compute once, outside the loop.

    Raises:
        ValueError: parameters of another configuration; a layer that cannot be stepped, such as an
            RTF with a pole outside the circle, and which; unless parameters are traced.
    """
    checks.parameters(params, init, config, mixer)
    weights = params["layers"]["mixer"]
    if any(signals.concrete(leaf) is None for leaf in jax.tree.leaves(weights)):
        ready = jax.vmap(mixer.prepare)(weights)
    else:
        each = [_prepared(mixer, weights, layer) for layer in range(config.layers)]
        ready = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return {**params, "layers": {**params["layers"], "mixer": ready}}


def _prepared(mixer: Mixer, weights: Any, layer: int) -> Any:
    try:
        return mixer.prepare(jax.tree.map(lambda leaf: leaf[layer], weights))
    except ValueError as error:
        raise ValueError(f"layer {layer}: {error}") from None


def init_state(
    batch: int, capacity: int = 0, dtype: Any = None, *, config: Config, mixer: Mixer
) -> dict[str, Any]:
    """States before the first step, those of the layers stacked to [N, ...].

    Mixers of this package ignore `capacity`, the number of steps that caches of attention hold.
    """
    make = functools.partial(mixer.init_state, batch, capacity, dtype)
    state: dict[str, Any] = {"layers": jax.vmap(lambda _: make())(jnp.arange(config.layers))}
    if config.pooling == "mean":
        state |= pooling.init_state(batch, config.channels, dtype)
    return state


def prefill(
    params: dict[str, Any],
    u: Any,
    state: dict[str, Any],
    lengths: Any = None,
    *,
    config: Config,
    mixer: Mixer,
) -> tuple[dict[str, Any], Array]:
    """Read the beginning of signals, padded on the right.

    Args:
        u: [B, T, I], or tokens [B, T].
        lengths: [B] number of valid steps of each example, 0..T; None for all.

    Returns:
        The state after them, and [B, T, O]: at each step the output for a signal that ends there.

    Raises:
        ValueError: as of `apply`.
    """
    checks.parameters(params, init, config, mixer)
    x = _encode(params, u, config)
    if lengths is not None and x.ndim == 3:
        lengths = signals.counted(lengths, x.shape[0], x.shape[1])
    return _read(params, x, state, lengths, config=config, mixer=mixer, one=False)


@functools.partial(jax.jit, static_argnames=("config", "mixer", "one"), inline=True)
def _read(
    params: dict[str, Any],
    x: Array,
    state: dict[str, Any],
    lengths: Array | None,
    *,
    config: Config,
    mixer: Mixer,
    one: bool,
) -> tuple[dict[str, Any], Array]:
    """What `prefill` and, for one step, `step` do behind the encoder."""

    def layer(x: Array, inputs: tuple[Any, Any]) -> tuple[Array, Any]:
        weights, old = inputs

        def mix(weights: Any, z: Array) -> tuple[Array, Any]:
            ends = mixer.step(weights, old, z) if one else mixer.prefill(weights, z, old, lengths)
            return ends[1], ends[0]

        return _block(weights, x, config, mix)

    x, layers = jax.lax.scan(layer, x, (params["layers"], state["layers"]))
    x, rest = _last(params, x, config), {}
    if config.pooling == "mean":
        rest, x = pooling.step(state, x) if one else pooling.prefixes(state, x, lengths)
    return {"layers": layers, **rest}, _map(params["head"], x)


def step(
    prepared: dict[str, Any], state: dict[str, Any], u: Any, *, config: Config, mixer: Mixer
) -> tuple[dict[str, Any], Array]:
    """One step u [B, I] or tokens [B] to (new state, output [B, O]), a `lax.scan` body.

    Raises:
        ValueError: a step of another shape; as of `apply`.
    """
    shape = ["B"] if config.vocabulary is not None else ["B", str(config.inputs)]
    if jnp.ndim(u) != len(shape):
        raise ValueError(f"u: expected shape [{', '.join(shape)}], got {jnp.shape(u)}")
    x = _encode(prepared, u, config)
    return _read(prepared, x, state, None, config=config, mixer=mixer, one=True)


def model(config: Config, mixer: Mixer) -> Mixer:
    """The whole network as six functions, like one of its mixers (see `mixer.Mixer`).

    `apply` also takes `key`, `lengths` and what the mixer's own takes.

    >>> from ssm import s4d
    >>> one = model(Config(channels=4, outputs=2, layers=3), s4d.mixer(s4d.Config(4, modes=2)))
    >>> one.apply(one.init(jax.random.key(0)), jnp.ones((1, 8, 1))).shape
    (1, 8, 2)

    Raises:
        ValueError: no configuration, or no mixer.
    """
    if not isinstance(config, Config):
        raise ValueError(f"config: expected a stack.Config, got {type(config).__name__}")
    if not isinstance(mixer, Mixer):
        raise ValueError(
            "mixer: expected one such as s4d.mixer(s4d.Config(8)), got "
            f"{mixer if isinstance(mixer, str) else type(mixer).__name__}"
        )
    both = {"config": config, "mixer": mixer}
    return Mixer(
        init=functools.partial(init, **both),
        apply=functools.partial(apply, **both),
        prepare=functools.partial(prepare, **both),
        prefill=functools.partial(prefill, **both),
        init_state=functools.partial(init_state, **both),
        step=functools.partial(step, **both),
    )
