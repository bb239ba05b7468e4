"""MHA, GQA, MQA and MLA at equal parameters and at equal caches, with intervals over paired seeds.

Reproduces: the comparisons behind DeepSeek-V2 (arXiv 2405.04434), Table 1 (cache and capability),
Table 8 (MHA, GQA and MQA with equal parameters) and Table 9 (MLA and MHA), by losses instead of
benchmarks; the post https://kexue.fm/archives/10091. Every arm takes its own learning rate from a
grid, on a seed that is not compared, and all have as many parameters: SwiGLU takes up what
attention leaves. docs/ablations.md says what a small run can tell and what it cannot.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import attention
from attention import checks
from experiments.attention import arms, verdicts
from experiments.attention.arms import Arm
from experiments.harness import by_arm, figures, paired
from experiments.harness import comparison as comparisons
from experiments.harness.comparison import Comparison
from experiments.harness.config import from_dict
from experiments.harness.corpora import CorpusConfig
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.harness.weights import Network

METRIC = "validation_bits_per_byte"
PANELS = ("equal_parameters", "equal_caches")
TITLES = ("equal parameters (numbers cached)", "equal parameters and caches")


@dataclass(frozen=True)
class SizesConfig:
    """Sizes of the decoders of all arms.

    Attributes:
        d_model: d, width of the residual stream.
        n_layers, n_heads: layers; query heads in each, of d_model / n_heads dimensions.
        context: tokens of a training window.
        n_kv_heads: key/value heads of GQA at equal parameters.
        latent_dim: d_c of MLA at equal parameters; None: four head dimensions, as in DeepSeek-V2.
        rope_dim: d_r of MLA in both comparisons; None: half a head dimension, as in DeepSeek-V2.
        cache: numbers cached per token and layer by every arm at equal caches.
    """

    d_model: int = 96
    n_layers: int = 3
    n_heads: int = 6
    context: int = 96
    n_kv_heads: int = 2
    latent_dim: int | None = None
    rope_dim: int | None = None
    cache: int = 64

    def __post_init__(self):
        names = ("d_model", "n_layers", "n_heads", "n_kv_heads", "latent_dim", "rope_dim", "cache")
        checks.sizes(self, *names)
        if self.context < 2:
            raise ValueError(f"sizes.context: expected at least 2 tokens, got {self.context}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"sizes.n_heads: expected a divisor of d_model = {self.d_model}, got {self.n_heads}"
            )
        width = self.width
        if self.cache % (4 * width) or self.cache // (2 * width) > self.n_heads:
            raise ValueError(
                f"sizes.cache: expected a multiple of {4 * width}, twice as much as one head's, "
                f"and no more than MHA's {2 * width * self.n_heads}, got {self.cache}"
            )
        if self.n_heads % (self.cache // (2 * width)):
            raise ValueError(
                f"sizes.cache: expected a number of heads that divides {self.n_heads}, got "
                f"{self.cache // (2 * width)}"
            )
        self.equal_parameters(), self.equal_caches()

    @property
    def width(self) -> int:
        """Dimensions of a head."""
        return self.d_model // self.n_heads

    @property
    def rotated(self) -> int:
        """Of MLA, with the default resolved."""
        return 2 * max(1, self.width // 4) if self.rope_dim is None else self.rope_dim

    def equal_parameters(self) -> dict[str, Any]:
        """The attention of arms with caches of their own."""
        latent = 4 * self.width if self.latent_dim is None else self.latent_dim
        return {
            "MHA": self._grouped(self.n_heads, self.n_heads),
            f"GQA-{self.n_kv_heads}": self._grouped(self.n_heads, self.n_kv_heads),
            "MQA": self._grouped(self.n_heads, 1),
            "MLA": self._latent(latent),
        }

    def equal_caches(self) -> dict[str, Any]:
        """The attention of arms that cache `cache` numbers."""
        groups = self.cache // (2 * self.width)
        return {
            f"GQA-{groups}": self._grouped(self.n_heads, groups),
            f"MHA, {groups} heads": self._grouped(groups, groups),
            f"MQA, {self.cache // 2} wide": self._grouped(self.n_heads, 1, self.cache // 2),
            f"MLA, {self.cache}": self._latent(self.cache - self.rotated),
        }

    def _grouped(self, heads: int, groups: int, width: int | None = None) -> Any:
        return attention.GroupedConfig(self.d_model, heads, groups, head_dim=width or self.width)

    def _latent(self, latent_dim: int) -> Any:
        width, rope = self.width, self.rotated
        return attention.LatentConfig(
            self.d_model, self.n_heads, latent_dim, nope_dim=width, rope_dim=rope, value_dim=width
        )


@dataclass(frozen=True)
class Config:
    """Text, sizes, optimisation, and how arms are compared.

    Attributes:
        windows: validation windows of `sizes.context` tokens, evenly spaced; at most as many as
            fit side by side.
        dtype: of activations; weights, losses and the optimizer stay in float32.
        data, sizes, training, comparison: of all arms; peak learning rates are those of
            `comparison.rates`.
    """

    data: CorpusConfig = field(default_factory=CorpusConfig)
    sizes: SizesConfig = field(default_factory=SizesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    comparison: Comparison = field(default_factory=Comparison)
    windows: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        if self.windows < 1:
            raise ValueError(f"windows: expected at least 1, got {self.windows}")
        comparisons.check(self.training, self.comparison, least=2)


PAPER = Config(
    # 12 layers of 768 with 12 heads of 64: some 110M parameters with the embedding. MLA caches 288
    # numbers, 2.25 groups, as DeepSeek-V2 does by its ratios.
    data=CorpusConfig("c4/en", vocabulary=32_000, tokens=2_600_000_000),
    sizes=SizesConfig(768, 12, 12, 1024, n_kv_heads=4, cache=256),
    training=TrainingConfig(
        steps=20_000,
        batch_size=128,
        warmup=500,
        beta2=0.95,
        accumulate=4,
        eval_every=1000,
        checkpoint_every=1000,
    ),
    comparison=Comparison(5, (3e-4, 6e-4, 1.2e-3), vectorised=False),
    windows=1024,
    dtype="bfloat16",
)
PRESETS = {
    "quick": Config(
        sizes=SizesConfig(32, 2, 4, 32, cache=32),
        training=TrainingConfig(steps=40, batch_size=8, warmup=5, eval_every=40),
        comparison=Comparison(seeds=2, rates=(1e-2,)),
        windows=32,
    ),
    "cpu": Config(
        data=CorpusConfig("tiny_shakespeare"),
        training=TrainingConfig(
            steps=600, batch_size=16, warmup=50, eval_every=200, checkpoint_every=200
        ),
        comparison=Comparison(seeds=8, rates=(2e-3, 4e-3, 8e-3, 16e-3)),
        windows=580,
    ),
    "paper": PAPER,
    "paper_1b": replace(
        PAPER,
        data=replace(PAPER.data, tokens=20_100_000_000),
        sizes=SizesConfig(2048, 16, 16, 2048, n_kv_heads=4, cache=512),
        training=replace(PAPER.training, steps=38_000, batch_size=256, warmup=1000, accumulate=16),
        comparison=Comparison(3, (3e-4,), vectorised=False),
    ),
}


def all_arms(config: Config) -> list[Arm]:
    """All arms, with as many parameters as MHA; those that are in both comparisons once."""
    sizes, vocabulary = config.sizes, config.data.size
    mixers = sizes.equal_parameters() | sizes.equal_caches()
    plain = [
        Arm(
            name,
            attention.TransformerConfig(vocabulary, sizes.n_layers, mixer),
            dtype=config.dtype,
        )
        for name, mixer in mixers.items()
    ]
    target = arms.parameters(plain[0])
    return [arms.matched(arm, target) for arm in plain]


def trained_networks(config: Config) -> dict[str, Network]:
    """What is trained, by name."""
    return arms.networks(all_arms(config))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Tune, train and measure all arms."""
    problem, about = arms.on_text(config.data, config.sizes.context, config.windows, run)
    chosen = all_arms(config)
    rows = arms.run_all(chosen, problem, config.training, config.comparison, METRIC, run)
    return {
        "arms": len(chosen),
        "seeds": config.comparison.seeds,
        "rates_at_an_end": comparisons.at_an_end(rows, config.comparison.rates),
        "equal_parameters": [*config.sizes.equal_parameters()],
        "equal_caches": [*config.sizes.equal_caches()],
        "data": about,
    }


def draw(record: Record):
    """Differences at equal parameters and at equal caches, learning rates, and loss by cache."""
    figure, axes = figures.new(2, 2, width=4.6, height=3.2)
    for axis, name, title in zip(axes[0], PANELS, TITLES, strict=True):
        chosen = record.result[name]
        verdicts.draw_differences(axis, record, chosen, chosen[0], METRIC)
        axis.set(title=title)
    _draw_rates(axes[1, 0], record)
    _draw_caches(axes[1, 1], record)
    figures.legend_below(figure, columns=5)
    return figure


def _draw_rates(axis: Any, record: Record) -> None:
    for arm, style in zip(by_arm.names(record), figures.styles(), strict=False):
        means = comparisons.tuned(record.rows, arm)
        if means:
            axis.plot([*means], [*means.values()], label=arm, **style)
    figures.logarithmic(axis, "x")
    axis.set(xlabel="peak learning rate", ylabel="bits per byte", title="tuning, on another seed")


def _draw_caches(axis: Any, record: Record) -> None:
    """Every arm as a point with the interval of its mean over seeds, side by side if need be."""
    caches = {row["arm"]: row["cache"] for row in record.rows if "arm" in row}
    for arm, style in zip(by_arm.names(record), figures.styles(), strict=False):
        values = by_arm.values(record, arm, METRIC)
        mean = paired.difference(values, [0.0] * len(values))
        same = [name for name, cache in caches.items() if cache == caches[arm]]
        error = [[mean.value - mean.low], [mean.high - mean.value]]
        style = {**style, "linestyle": "none"}
        x = caches[arm] * 1.03 ** (same.index(arm) - (len(same) - 1) / 2)
        axis.errorbar([x], [mean.value], yerr=error, capsize=3, label=arm, **style)
    axis.set_xscale("log")
    axis.set_xticks(sorted(set(caches.values())), map(str, sorted(set(caches.values()))))
    axis.minorticks_off()
    axis.set(xlabel="numbers cached a token and layer", ylabel="bits per byte")
    axis.set(title="all arms, means with 95 % intervals")


def table(record: Record) -> str:
    """Both comparisons."""
    lines = []
    for name, title in zip(PANELS, TITLES, strict=True):
        chosen = record.result[name]
        lines += [*verdicts.table(record, chosen, chosen[0], METRIC, title), ""]
    count = record.result["seeds"]
    ends = ", ".join(record.result["rates_at_an_end"]) or "none"
    return "\n".join(
        [
            *lines,
            f"{count} paired seeds, intervals of 95 %; *inconclusive*: the interval covers zero. "
            f"Learning rates at an end of their grid: {ends}. Text: "
            f"{record.result['data']['source']}.",
            "",
        ]
    )


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about arms and trainings."""
    return arms.describe(all_arms(config), config.training, config.comparison, config.sizes.context)


def programs(config: Config) -> dict[str, Program]:
    """The training step of every arm."""
    return arms.programs(all_arms(config), config.training, config.comparison, config.sizes.context)


def _cache(record: Record) -> float:
    """Largest ratio of what was cached to Table 1's formula, or of its inverse."""
    sizes = from_dict(SizesConfig, record.config["sizes"])
    mixers = sizes.equal_parameters() | sizes.equal_caches()
    found = []
    for name, mixer in mixers.items():
        if isinstance(mixer, attention.LatentConfig):
            exact = mixer.latent_dim + mixer.rope_dim
        else:
            exact = 2 * mixer.kv_heads * mixer.width
        cached = by_arm.values(record, name, "cache")
        found += [max(value / exact, exact / value) for value in cached]
    return max(found)


def _ordering(name: str, statement: str, source: str, *which: tuple[str, int]) -> Claim:
    """That one arm loses to another, by their places in a comparison."""

    def measure(record: Record) -> Measurement | None:
        worse, better = (record.result[panel][place] for panel, place in which)
        return by_arm.difference(record, worse, better, METRIC)

    return Claim(f"ablation.{name}", statement, source, measure, 0.0, kind="ordering")


def _benchmark(name: str, statement: str, table: str, points: float) -> Claim:
    """A difference of benchmarks, which a decoder of this size does not solve: no measurement."""
    source = f"DeepSeek-V2 (arXiv 2405.04434), {table}"
    return Claim(f"ablation.{name}", statement, source, lambda record: None, points, kind="value")


TABLE_8 = "DeepSeek-V2 (arXiv 2405.04434), Tables 1 and 8: by benchmarks, 7B parameters"
TABLE_9 = "DeepSeek-V2 (arXiv 2405.04434), Tables 1 and 9: by benchmarks, 16B and 250B parameters"
CLAIMS = (
    Claim(
        id="ablation.cache",
        statement="elements cached a token and layer, over 2 n_g d_h or d_c + d_r, worst arm",
        source="DeepSeek-V2 (arXiv 2405.04434), Table 1",
        measure=_cache,
        paper=1.0,
    ),
    _ordering(
        "gqa_below_mha",
        "equal parameters: bits per byte of GQA minus those of MHA, above 0",
        TABLE_8,
        (PANELS[0], 1),
        (PANELS[0], 0),
    ),
    _ordering(
        "mqa_below_gqa",
        "equal parameters: bits per byte of MQA minus those of GQA, above 0",
        TABLE_8,
        (PANELS[0], 2),
        (PANELS[0], 1),
    ),
    _ordering(
        "mha_below_mla",
        "equal parameters: bits per byte of MHA minus those of MLA, above 0",
        TABLE_9,
        (PANELS[0], 0),
        (PANELS[0], 3),
    ),
    _ordering(
        "gqa_below_mla",
        "equal parameters and caches: bits per byte of GQA minus those of MLA, above 0",
        "TransMLA (arXiv 2502.07864): MLA expresses more with the same cache",
        (PANELS[1], 0),
        (PANELS[1], 3),
    ),
    _benchmark("mmlu_gqa", "MMLU of MHA minus that of GQA-8, 7B parameters", "Table 8", 4.0),
    _benchmark("mmlu_mqa", "MMLU of GQA-8 minus that of MQA, 7B parameters", "Table 8", 3.3),
    _benchmark("mmlu_mla", "MMLU of MLA minus that of MHA, 16B parameters", "Table 9", 1.3),
    _benchmark("mmlu_mla_large", "MMLU of MLA minus that of MHA, 250B parameters", "Table 9", 1.5),
    _benchmark("ceval_mla", "C-Eval of MLA minus that of MHA, 16B parameters", "Table 9", -0.7),
)
