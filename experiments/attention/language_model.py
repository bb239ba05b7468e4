"""A byte-level language model with MHA, GQA, MQA or MLA, trained and sampled.

Reproduces: the setting of the post https://kexue.fm/archives/10091 (MHA, GQA and MQA decoders
with a key/value cache) at the size of nanoGPT's character model; checks the cache sizes of
DeepSeek-V2's Table 1 on the real arrays and that cached decoding equals the full forward pass.
"""

import functools
import math
import textwrap
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import attention
from attention import transformer
from experiments.attention import next_token
from experiments.harness import datasets, figures, training, weights
from experiments.harness.estimate import Program, count
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.harness.weights import Network

VOCABULARY = 256  # bytes
NAME = "decoder"  # of its weights


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the decoder.

    Attributes:
        mixer: attention: mha, gqa or mqa, which set the number of key/value heads, or mla.
        d_model: d, width of the residual stream.
        n_layers, n_heads: layers; query heads in each, of d_model / n_heads dimensions.
        context: tokens of a training window.
        n_kv_heads: key/value heads of gqa.
        latent_dim: d_c of mla; None: four head dimensions, as in DeepSeek-V2.
        rope_dim: d_r of mla, beside the head's plain and value dimensions; None: half as many.
        rope: whether to use rotary embedding; mla needs it here.
        tie_embeddings: share embedding and output head.
        remat: what the backward pass recomputes (see `attention.TransformerConfig`).
    """

    mixer: Literal["mha", "gqa", "mqa", "mla"] = "gqa"
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    latent_dim: int | None = None
    rope_dim: int | None = None
    context: int = 128
    rope: bool = True
    tie_embeddings: bool = True
    remat: transformer.Remat = "matmuls"

    def __post_init__(self):
        if self.context < 2:
            raise ValueError(f"model.context: expected at least 2 bytes, got {self.context}")
        if not self.rope and self.mixer == "mla":
            raise ValueError("model.rope: expected true with mla")
        self.transformer()

    def transformer(self) -> attention.TransformerConfig:
        """The decoder's own configuration, which validates the sizes."""
        if self.mixer == "mla":
            width = self.d_model // self.n_heads
            mixer = attention.LatentConfig(
                self.d_model,
                self.n_heads,
                4 * width if self.latent_dim is None else self.latent_dim,
                nope_dim=width,
                rope_dim=2 * max(1, width // 4) if self.rope_dim is None else self.rope_dim,
                value_dim=width,
            )
        else:
            groups = {"mha": self.n_heads, "gqa": self.n_kv_heads, "mqa": 1}[self.mixer]
            base = 10_000.0 if self.rope else None
            mixer = attention.GroupedConfig(self.d_model, self.n_heads, groups, rope_base=base)
        return attention.TransformerConfig(
            VOCABULARY,
            self.n_layers,
            mixer,
            tie_embeddings=self.tie_embeddings,
            remat=self.remat,
        )


@dataclass(frozen=True)
class Config:
    """Text, model, optimisation, and what to generate at the end.

    Attributes:
        windows: validation windows of `model.context` bytes, evenly spaced; at most as many as
            fit side by side.
        prompt: text to continue.
        new_bytes: bytes to generate; past `model.context`, sequences are longer than in training.
        temperature: sampling temperature of the generated text.
        dtype: of activations in training and evaluation; all else is in float32.
    """

    data: datasets.TextConfig = field(default_factory=datasets.TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    windows: int = 64
    prompt: str = "The "
    new_bytes: int = 200
    temperature: float = 0.7
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name in ("windows", "new_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not (self.prompt and self.temperature >= 0):
            raise ValueError(
                "prompt, temperature: expected some text and a number >= 0, got "
                f"{self.prompt!r}, {self.temperature}"
            )


PRESETS = {
    "quick": Config(
        model=ModelConfig(d_model=96, n_layers=2, n_heads=6, n_kv_heads=2, context=64),
        training=TrainingConfig(
            steps=180, batch_size=16, learning_rate=5e-3, warmup=20, eval_every=60
        ),
    ),
    "cpu": Config(
        model=ModelConfig(d_model=128, n_layers=4, n_heads=4, n_kv_heads=2, context=128),
        training=TrainingConfig(
            steps=600, batch_size=16, learning_rate=3e-3, checkpoint_every=100, eval_every=100
        ),
        windows=256,
        new_bytes=400,
    ),
    # nanoGPT's shakespeare_char: 10.7M parameters, on the same text, but bytes for characters.
    "paper": Config(
        data=datasets.TextConfig(name="tiny_shakespeare"),
        model=ModelConfig("mha", d_model=384, n_layers=6, n_heads=6, context=256),
        training=TrainingConfig(
            steps=5000, batch_size=64, warmup=100, checkpoint_every=500, eval_every=250
        ),
        windows=200,
        prompt="ROMEO:",
        new_bytes=500,
    ),
}


def trained_networks(config: Config) -> dict[str, Network]:
    """The decoder."""
    return {NAME: next_token.network(config.model.transformer())}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train, then generate, then check the identities behind the claims."""
    text = datasets.load_text(config.data)
    decoder = config.model.transformer()
    problem = next_token.make_problem(
        decoder,
        config.model.context,
        config.training,
        config.windows,
        text,
        dtype=config.dtype,
    )
    state = training.train(problem, config.training, run)
    params = training.averaged(state)
    weights.save(run.directory, NAME, params)
    rates = [row["steps_per_second"] for row in run.tracker.rows() if "steps_per_second" in row]
    tokens = config.training.batch_size * config.model.context
    prompt = np.frombuffer(config.prompt.encode(), np.uint8)[None].astype(np.int32)
    sample = attention.generate(
        params,
        decoder,
        prompt,
        config.new_bytes,
        temperature=config.temperature,
        key=jax.random.key(config.training.seed),
    )
    return {
        **problem.evaluate(params),
        "bigram_bits_per_byte": bigram_bits(text),
        "parameters": count(params),
        "tokens_per_second": float(np.median(rates)) * tokens,
        "greedy_agreement": greedy_agreement(params, decoder, prompt, config.new_bytes),
        "cache_elements": cache_elements(decoder),
        "sample": bytes(np.asarray(sample[0], np.uint8)).decode(errors="replace"),
        "data": {"source": text.source, "sha256": text.sha256},
    }


def bigram_bits(text: datasets.Text) -> float:
    """Validation bits per byte of the best table of pairs (add-one smoothing)."""
    counts = np.ones((VOCABULARY, VOCABULARY))
    np.add.at(counts, (text.train[:-1], text.train[1:]), 1.0)
    probability = counts / counts.sum(1, keepdims=True)
    return float(-np.log2(probability[text.validation[:-1], text.validation[1:]]).mean())


def greedy_agreement(
    params: Any, config: attention.TransformerConfig, prompt: np.ndarray, new: int
) -> float:
    """Fraction of greedily generated bytes that the full forward pass also ranks first."""
    generated = attention.generate(params, config, prompt, new)
    sequence = jnp.concatenate([prompt, generated], axis=1)
    logits = jax.jit(transformer.apply, static_argnums=2)(params, sequence, config)
    best = jnp.argmax(logits[:, prompt.shape[1] - 1 : -1], axis=-1)
    return float(jnp.mean(best == generated))


def cache_elements(config: attention.TransformerConfig) -> float:
    """Cached numbers per token and layer, from the shapes of a real cache of one-byte numbers."""
    return attention.cache_bytes(config, 3, 7, jnp.int8) / (3 * 7 * config.n_layers)


def draw(record: Record):
    """Learning curves beside a sample of generated text."""
    figure, axes = figures.new(columns=2)
    left, right = axes[0]
    settings = record.config["training"]
    scale = settings["batch_size"] * record.config["model"]["context"] / 1e6
    series = {"training": "loss", "validation": "validation_bits_per_byte"}
    for (label, name), style in zip(series.items(), figures.styles(), strict=False):
        points = [(row["step"] * scale, row[name]) for row in record.rows if name in row]
        style = {**style, "marker": None} if len(points) > 1 and label == "training" else style
        left.plot(*zip(*points, strict=True), label=label, **style)
    bigram = record.result["bigram_bits_per_byte"]
    left.axhline(bigram, color="#777777", linewidth=1, label="bigram table")
    left.set(xlabel="bytes seen (millions)", ylabel="bits per byte")
    mixer = figures.spelled(record.config["model"]["mixer"])
    left.set(title=f"{mixer} on {record.result['data']['source']}")
    left.set_ylim(0, 8.5)
    left.legend()
    text = record.config["prompt"] + record.result["sample"]
    lines = textwrap.wrap(text, 44, replace_whitespace=False, drop_whitespace=False)
    shown = figures.printable("\n".join(lines[:18]))
    right.text(0, 1, shown, va="top", family="monospace", fontsize=8, parse_math=False)
    context = record.config["model"]["context"]
    longer = len(text.encode()) > context
    title = f"generated; trained on {context} bytes" if longer else "generated, after the prompt"
    right.set_title(title, loc="left")
    right.set_axis_off()
    return figure


def table(record: Record) -> str:
    """Scalar results, then the generated text."""
    lines = ["| quantity | value |", "| --- | --- |"]
    scalars = {k: v for k, v in record.result.items() if isinstance(v, int | float)}
    lines += [f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in scalars.items()]
    text = record.config["prompt"] + record.result["sample"]
    lines += ["", "Generated text:", "", textwrap.indent(text, "    ")]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about sizes."""
    shapes = jax.eval_shape(
        functools.partial(transformer.init, config=config.model.transformer()), jax.random.key(0)
    )
    tokens = config.training.steps * config.training.batch_size * config.model.context
    return {
        "parameters": f"{count(shapes):,}",
        "checkpoint": f"{12 * count(shapes) / 1e6:.1f} MB each",
        "training": f"{tokens / 1e6:.2f}M bytes seen",
    }


def programs(config: Config) -> dict[str, Program]:
    """The training step."""
    decoder, settings = config.model.transformer(), config.training
    problem = training.Problem(
        init=functools.partial(transformer.init, config=decoder),
        loss=functools.partial(
            next_token.loss,
            config=decoder,
            dtype=config.dtype,
        ),
        batch=lambda step: None,
        evaluate=lambda params: {},
        partition=functools.partial(next_token.partition, decoder, None),
    )
    state = jax.eval_shape(lambda: training.init_state(problem, settings))
    shape = (settings.batch_size, config.model.context + 1)
    batch = jax.ShapeDtypeStruct(shape, jnp.int32)
    step = training.make_step(problem, settings)
    return {"training step": Program(step, (state, batch), (0,), settings.steps, problem.partition)}


def _beats_bigram(record: Record) -> Measurement:
    gain = record.result["bigram_bits_per_byte"] - record.result["validation_bits_per_byte"]
    error = 2 * record.result["validation_standard_error"]
    return Measurement(gain, gain - error, gain + error)


def _cache_ratio(record: Record) -> float:
    """Cached elements over those of Table 1: 2 n_g d_h, or d_c + d_r."""
    model = record.config["model"]
    width = model["d_model"] // model["n_heads"]
    groups = {"mha": model["n_heads"], "gqa": model["n_kv_heads"], "mqa": 1}
    if model["mixer"] == "mla":
        given = model["latent_dim"], model["rope_dim"]
        defaults = 4 * width, 2 * max(1, width // 4)
        exact = sum(d if g is None else g for g, d in zip(given, defaults, strict=True))
    else:
        exact = 2 * groups[model["mixer"]] * width
    return record.result["cache_elements"] / exact


def _best_validation(record: Record) -> Measurement | None:
    if record.result["data"]["source"] != "tiny_shakespeare":
        return None
    rows = [row for row in record.rows if "validation_bits_per_byte" in row]
    best = min(rows, key=lambda row: row["validation_bits_per_byte"])
    value, error = best["validation_bits_per_byte"], 2 * best["validation_standard_error"]
    return Measurement(value, value - error, value + error)


CLAIMS = (
    Claim(
        id="language_model.cached_decoding",
        statement="decoding with the cache chooses the bytes of the full forward pass (fraction)",
        source="kexue.fm/archives/10091, section MHA",
        measure=lambda record: record.result["greedy_agreement"],
        paper=1.0,
    ),
    Claim(
        id="language_model.cache_size",
        statement="cached elements a token and layer, divided by 2 n_g d_h (MLA: d_c + d_r)",
        source="DeepSeek-V2 (arXiv 2405.04434), Table 1",
        measure=_cache_ratio,
        paper=1.0,
    ),
    Claim(
        id="language_model.beats_bigram",
        statement="bits per byte gained over a table of byte pairs exceed",
        source="the point of a context longer than one byte",
        measure=_beats_bigram,
        paper=0.0,
        kind="ordering",
    ),
    Claim(
        id="language_model.nanogpt",
        statement="best validation bits per byte on tiny Shakespeare (1.4697 nats a character)",
        source="nanoGPT README, baby GPT; it trains with dropout, this model without",
        measure=_best_validation,
        paper=1.4697 / math.log(2),
        tolerance=0.03,
        kind="value",
    ),
)
