"""Grouped-query attention converted to MLA, then its cache shrunk, in a trained language model.

Reproduces: multi-head latent attention as a generalisation of grouped-query attention (the post
https://kexue.fm/archives/10091; TransMLA, arXiv 2502.07864): without rotary embedding the
conversion is exact, with a cache as large; fewer latents come from a joint SVD of keys and values,
plain or weighted with what the layers read, against ranks for keys and values apart and against
heads that are averaged. Loss against cache, without and with some steps of training afterwards.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention import GroupedConfig, TransformerConfig, cache_bytes, convert, transformer
from experiments.attention import held_out, language_model, next_token
from experiments.attention.language_model import ModelConfig
from experiments.harness import compiling, datasets, figures, training
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

JOINT, WEIGHTED, APART, AVERAGED = (
    "joint SVD",
    "weighted SVD",
    "keys, values apart",
    "heads averaged",
)
TRAINED = "weighted SVD, trained on"
Params = dict[str, Any]
QUICK_MODEL = ModelConfig(d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, context=64, rope=False)
QUICK = TrainingConfig(steps=120, batch_size=16, learning_rate=5e-3, warmup=20, eval_every=60)


@dataclass(frozen=True)
class Config:
    """What to train and convert.

    Attributes:
        data: the text to train and evaluate on.
        model: decoder that `training` trains first: mha, gqa or mqa, without rotary embedding.
        windows: number of held-out windows on which losses are compared.
        ranks: cached numbers per token and layer to cut to, descending; the uncut cache is added.
        moment_windows: number of training windows whose activations weight the SVD.
        steps_after: steps of training after the conversion; 0: none.
        rate_after: peak learning rate of these steps.
    """

    data: datasets.TextConfig = field(default_factory=datasets.TextConfig)
    model: ModelConfig = QUICK_MODEL
    training: TrainingConfig = QUICK
    windows: int = 48
    ranks: tuple[int, ...] = (32, 16, 8)
    moment_windows: int = 64
    steps_after: int = 20
    rate_after: float = 1e-3

    def __post_init__(self):
        if self.model.mixer == "mla" or self.model.rope:
            raise ValueError("model: expected mha, gqa or mqa without rope, which alone is MLA")
        most = self.model.transformer().mixer.cache_elements
        falling = all(a > b for a, b in zip(self.ranks, self.ranks[1:], strict=False))
        if not self.ranks or not falling or not 2 <= min(self.ranks) <= max(self.ranks) < most:
            raise ValueError(f"ranks: expected falling ones from 2 to {most - 1}, got {self.ranks}")
        if min(self.windows, self.moment_windows) < 2 or self.steps_after < 0:
            raise ValueError(
                "windows, moment_windows, steps_after: expected at least 2, 2 and 0, got "
                f"{self.windows}, {self.moment_windows}, {self.steps_after}"
            )


CPU = Config(
    data=datasets.TextConfig(name="tiny_shakespeare"),
    model=ModelConfig(d_model=128, n_layers=4, n_heads=8, n_kv_heads=2, context=128, rope=False),
    training=TrainingConfig(
        steps=1500, batch_size=16, learning_rate=3e-3, warmup=100, eval_every=250
    ),
    windows=256,
    ranks=(56, 48, 40, 32, 24, 16, 8),
    moment_windows=256,
    steps_after=100,
)
PRESETS = {
    "quick": Config(),
    "cpu": CPU,
    "paper": replace(
        CPU,
        model=ModelConfig(
            d_model=768, n_layers=12, n_heads=12, n_kv_heads=4, context=512, rope=False
        ),
        training=TrainingConfig(steps=5000, batch_size=64, warmup=200, eval_every=500),
        ranks=(448, 384, 320, 256, 192, 128, 96, 64, 32),
        steps_after=500,
        rate_after=3e-4,
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train, convert, truncate in every way, train on."""
    text = datasets.load_text(config.data)
    decoder, size = config.model.transformer(), config.model.context + 1
    problem = next_token.make_problem(
        decoder, config.model.context, config.training, config.windows, text
    )
    params = training.averaged(training.train(problem, config.training, run))
    parts = held_out.windows(text, size, config.windows)
    bits = functools.partial(_bits, windows=parts, size=config.training.batch_size)
    read = jnp.asarray(_training_windows(config, text))
    moments = convert.moments(params, read[:, :-1], decoder)
    made, latents = convert.to_latent(params, decoder)
    before, rows = bits(params, decoder), []
    for rank in config.ranks:
        for name, (small, one) in _ways(params, decoder, moments, rank).items():
            rows.append({"way": name, **_row(bits(small, one), before, one)})
            if name == WEIGHTED and config.steps_after:
                on = _train_on(config, small, one, text)
                rows.append({"way": TRAINED, **_row(bits(on, one), before, one)})
        run.check_stop()
    whole = _train_on(config, params, decoder, text) if config.steps_after else params
    return {
        "whole": {"bits": float(before.mean()), "elements": decoder.mixer.cache_elements},
        "whole_trained_on": float(bits(whole, decoder).mean()),
        "rows": rows,
        "exact": _exact(params, decoder, parts),
        "cache_ratio": cache_bytes(latents, 1, size) / cache_bytes(decoder, 1, size),
        "spectra": _spectra(made, latents, moments),
        "data": {"source": text.source, "sha256": text.sha256},
    }


def _training_windows(config: Config, text: datasets.Text) -> np.ndarray:
    """Windows of the training text that no step looks at together."""
    settings, size = config.training, config.model.context + 1
    crops = datasets.crops(text.train, config.moment_windows, size, settings.seed + 1, 0)
    return crops.astype(np.int32)


def _ways(
    params: Params, decoder: TransformerConfig, moments: jax.Array, rank: int
) -> dict[str, tuple[Params, TransformerConfig]]:
    """Name -> a decoder whose cache has `rank` numbers a token and layer, if the way can do it."""
    made, latents = convert.to_latent(params, decoder)
    mixer = _grouped(decoder)
    found = {
        JOINT: convert.truncate(made, latents, rank),
        WEIGHTED: convert.truncate(made, latents, rank, moments),
        APART: convert.to_latent(_apart(params, rank), decoder),
    }
    # Keys and values apart are `rank` numbers each of which belongs to one of them alone.
    found[APART] = convert.truncate(*found[APART], rank)
    groups = rank // (2 * mixer.width)
    if rank % (2 * mixer.width) == 0 and mixer.kv_heads % groups == 0:
        found[AVERAGED] = convert.average_heads(params, decoder, groups)
    return found


def _grouped(decoder: TransformerConfig) -> GroupedConfig:
    assert isinstance(decoder.mixer, GroupedConfig)
    return decoder.mixer


def _apart(params: Params, rank: int) -> Params:
    """Keys and values each of half the rank, by SVDs of their own."""
    mixer = dict(params["layers"]["mixer"])
    for name, count in (("key", rank - rank // 2), ("value", rank // 2)):
        u, s, v = jnp.linalg.svd(mixer[name], full_matrices=False)
        mixer[name] = (u[..., :count] * s[..., None, :count]) @ v[..., :count, :]
    return {**params, "layers": {**params["layers"], "mixer": mixer}}


def _bits(params: Params, decoder: TransformerConfig, windows: np.ndarray, size: int) -> np.ndarray:
    function = next_token.window_bits(decoder)
    return held_out.each_window(params, windows, size, function)


def _row(bits: np.ndarray, before: np.ndarray, decoder: TransformerConfig) -> dict[str, float]:
    """Loss, and how much more it is on the same windows, with its standard error."""
    more = bits - before
    return {
        "elements": cache_bytes(decoder, 1, 1, jnp.int8) / decoder.n_layers,
        "bits": float(bits.mean()),
        "more": float(more.mean()),
        "error": float(more.std(ddof=1) / math.sqrt(len(more))),
    }


def _train_on(
    config: Config, params: Params, decoder: TransformerConfig, text: datasets.Text
) -> Params:
    """Some further steps of all weights."""
    settings = replace(
        config.training,
        steps=config.steps_after,
        learning_rate=config.rate_after,
        warmup=min(10, config.steps_after - 1),
        ema=0.0,
        seed=config.training.seed + 2,
    )
    size = config.model.context + 1
    problem = training.Problem(
        init=lambda key: jax.tree.map(jnp.copy, params),
        loss=functools.partial(next_token.loss, config=decoder),
        batch=lambda step: datasets.crops(
            text.train, settings.batch_size, size, settings.seed, step
        ).astype(np.int32),
        evaluate=lambda params: {},
    )
    step, state = compiling.compile_step(training.make_step(problem, settings)), None
    state = training.init_state(problem, settings)
    for index in range(settings.steps):
        state, _ = step(state, problem.batch(index))
    return state.params


def _exact(params: Params, decoder: TransformerConfig, windows: np.ndarray) -> float:
    """Largest difference of logits of the converted decoder in float64, over the largest logit."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        tokens = jnp.asarray(windows[:4, :-1])
        made, latents = convert.to_latent(wide, decoder)
        ours = transformer.apply(wide, tokens, decoder)
        theirs = transformer.apply(made, tokens, latents)
        return float(jnp.max(jnp.abs(ours - theirs)) / jnp.max(jnp.abs(ours)))


def _spectra(
    made: Params, latents: TransformerConfig, moments: jax.Array
) -> dict[str, list[list[float]]]:
    """Share of the squared size of keys and values that latents of each rank leave out, a layer."""
    mixer = made["layers"]["mixer"]
    found: dict[str, list[list[float]]] = {JOINT: [], WEIGHTED: []}
    for layer in range(latents.n_layers):
        whole = np.asarray(mixer["down"][layer] @ mixer["up"][layer], np.float64)
        values, vectors = np.linalg.eigh(np.asarray(moments[layer], np.float64))
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        for name, matrix in ((JOINT, whole), (WEIGHTED, root @ whole)):
            power = np.linalg.svd(matrix, compute_uv=False)[: latents.mixer.cache_elements] ** 2
            left = 1.0 - np.cumsum(power) / power.sum()
            found[name].append(np.maximum(left, 0.0).round(6).tolist())
    return found


def draw(record: Record):
    """More bits against the cache, and what the latents leave out."""
    figure, axes = figures.new(columns=2, width=4.6, height=3.7)
    left, right = axes[0]
    whole = record.result["whole"]["elements"]
    for name, style in zip(_names(record), figures.styles(), strict=False):
        rows = [row for row in record.result["rows"] if row["way"] == name]
        errors = [2 * row["error"] for row in rows]
        places, more = [row["elements"] for row in rows], [row["more"] for row in rows]
        left.errorbar(places, more, errors, label=name, **style)
    left.axvline(whole, color="#777777", linestyle="--", linewidth=1.0, label=f"all {whole}")
    left.axhline(0.0, color="#777777", linewidth=0.8)
    on = record.result["whole_trained_on"] - record.result["whole"]["bits"]
    look = {"color": "#777777", "linestyle": ":", "label": f"all {whole}, trained on"}
    left.axhline(on, linewidth=1.2, **look)
    left.set_yscale("symlog", linthresh=0.02)
    left.set(
        xlabel="cached numbers a token and layer", ylabel="bits per byte over the whole cache's"
    )
    left.set(title=f"loss, {record.result['data']['source']}", ylim=(min(-0.04, 2 * on), 8.0))
    figures.legend_below(figure, columns=5)
    spectra = record.result["spectra"].items()
    for (name, layers), style in zip(spectra, figures.styles(), strict=False):
        for index, values in enumerate(layers):
            left_out = np.where(np.array(values) > 1e-6, values, np.nan)  # written to 6 digits
            look = {**style, "marker": None, "linewidth": 1.0, "label": name * (index == 0)}
            right.plot(np.arange(1, len(values) + 1), left_out, **look)
    right.set(xlabel="latents", ylabel="share of squares left out", yscale="log")
    right.set(title="keys and values, a line a layer")
    right.legend(fontsize=8)
    return figure


def _names(record: Record) -> list[str]:
    return list(dict.fromkeys(row["way"] for row in record.result["rows"]))


def table(record: Record) -> str:
    """Bits per byte over those of the whole cache, with two standard errors."""
    names = _names(record)
    lines = [f"| cached numbers | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for rank in record.config["ranks"]:
        cells = []
        for name in names:
            rows = [r for r in record.result["rows"] if (r["way"], r["elements"]) == (name, rank)]
            one = rows[0] if rows else None
            cells.append("-" if one is None else f"{one['more']:+.4f} ± {2 * one['error']:.4f}")
        lines.append(f"| {rank} | {' | '.join(cells)} |")
    whole = record.result["whole"]
    return (
        "\n".join(lines) + f"\n\nWith all {whole['elements']} numbers {whole['bits']:.4f} bits per "
        f"byte, trained on {record.result['whole_trained_on']:.4f}; converted, logits differ by "
        f"{record.result['exact']:.1e} of the largest in float64.\n"
    )


def programs(config: Config) -> dict[str, Program]:
    """The training step."""
    return language_model.programs(
        language_model.Config(model=config.model, training=config.training)
    )


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the cache."""
    elements = config.model.transformer().mixer.cache_elements
    return {"cache": f"{elements} numbers a token and layer, cut to {config.ranks}"}


def _against(other: str, mine: str) -> Callable[[Record], Measurement | None]:
    """Bits per byte that one way loses more than another, at about half of the cache."""

    def measure(record: Record) -> Measurement | None:
        half = record.result["whole"]["elements"] / 2
        rank = min(record.config["ranks"], key=lambda rank: abs(rank - half))
        rows = {r["way"]: r for r in record.result["rows"] if r["elements"] == rank}
        if other not in rows or mine not in rows:
            return None
        gain = rows[other]["more"] - rows[mine]["more"]
        error = 2 * math.hypot(rows[other]["error"], rows[mine]["error"])
        return Measurement(gain, gain - error, gain + error)

    return measure


CLAIMS = (
    Claim(
        id="conversion.exact",
        statement="largest difference of logits after conversion to MLA, of the largest logit",
        source="https://kexue.fm/archives/10091; TransMLA (arXiv 2502.07864)",
        measure=lambda record: record.result["exact"],
        paper=0.0,
        tolerance=1e-12,
    ),
    Claim(
        id="conversion.cache",
        statement="bytes of the cache of the converted decoder over those of the first",
        source="TransMLA (arXiv 2502.07864): at the same cache",
        measure=lambda record: record.result["cache_ratio"],
        paper=1.0,
    ),
    Claim(
        id="conversion.joint",
        statement="bits per byte that ranks for keys and values apart lose more than joint ones",
        source="TransMLA (arXiv 2502.07864), section 4: joint compression of keys and values",
        measure=_against(APART, JOINT),
        paper=0.0,
        kind="ordering",
    ),
    Claim(
        id="conversion.weighted",
        statement="bits per byte that the plain SVD loses more than the weighted one",
        source="TransMLA (arXiv 2502.07864), section 4: principal components of activations",
        measure=_against(JOINT, WEIGHTED),
        paper=0.0,
        kind="ordering",
    ),
    Claim(
        id="conversion.averaged",
        statement="bits per byte that averaged heads lose more than the weighted SVD",
        source="TransMLA (arXiv 2502.07864): MLA is the more expressive at an equal cache",
        measure=_against(AVERAGED, WEIGHTED),
        paper=0.0,
        kind="ordering",
    ),
)
