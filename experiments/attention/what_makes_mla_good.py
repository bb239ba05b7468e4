"""What makes MLA good, rows of a post at small scale: head dimension, shared K and V, partial RoPE.

Reproduces: the tables of https://kexue.fm/archives/10907 (what makes MLA good, part 1): eighteen
decoders whose attention differs, among them those of equal cache and equal parameters. The post
trains 842M to 1171M parameters on 16B tokens with Muon, one run of each; here every dimension of a
head is an eighth of the post's, the optimiser is AdamW, and several paired seeds give intervals, in
which the post's orderings are looked for. Names are the post's, with its dimensions.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from attention import GroupedConfig, LatentConfig, TiedConfig, TransformerConfig, checks
from experiments.attention import arms, verdicts
from experiments.attention.arms import Arm
from experiments.attention.mixers import low_rank
from experiments.harness import by_arm, figures, paired
from experiments.harness import comparison as comparisons
from experiments.harness.comparison import Comparison
from experiments.harness.corpora import CorpusConfig
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.harness.weights import Network

METRIC = "validation_bits_per_byte"
BASELINE = "GQA2-128"
# Of the post: millions of parameters, loss in nats a token, numbers cached a token and layer.
POST = {
    "MHA": (931, 2.721, 4096),
    "MLA": (894, 2.721, 576),
    "MLA-256": (989, 2.705, 576),
    "GQA2-128": (842, 2.75, 512),
    "GQA2-192": (899, 2.729, 768),
    "GQA1-256": (943, 2.72, 512),
    "GQA1-256-PR": (943, 2.711, 512),
    "GQA2-(192+64)-S1": (946, 2.714, 640),
    "GQA2-(192+64)-S2": (943, 2.708, 512),
    "GQA4-(64+64)-S2": (842, 2.738, 512),
    "GQA4-(128+64)-S2": (899, 2.713, 768),
    "GQA1-(512+64)-S3": (1171, 2.677, 576),
    "GQA2-128, twice the heads": (943, 2.723, 512),
    "GQA1-256, smaller MLP": (843, 2.747, 512),
    "GQA1-256, low-rank Q, O": (842, 2.726, 512),
    "GQA4-(64+64)-S2, twice the heads": (943, 2.711, 512),
    "GQA2-(192+64)-S2, smaller MLP": (843, 2.733, 512),
    "GQA2-(192+64)-S2, low-rank Q, O": (842, 2.708, 512),
}


@dataclass(frozen=True)
class SizesConfig:
    """Sizes of the decoders of all arms.

    Attributes:
        d_model, n_layers: width of the residual stream, layers; in the post 2048 and 12.
        n_heads, context: query heads, tokens of a training window; in the post 16 and 4096.
        unit: number of head dimensions that stands for 128 of the post's.
    """

    d_model: int = 128
    n_layers: int = 3
    n_heads: int = 8
    context: int = 96
    unit: int = 16

    def __post_init__(self):
        checks.sizes(self, "d_model", "n_layers", "n_heads", "unit")
        if self.unit % 4 or self.unit < 4 or self.n_heads % 4:
            raise ValueError(
                f"sizes.unit, n_heads: expected multiples of 4, got {self.unit}, {self.n_heads}"
            )
        if self.context < 2:
            raise ValueError(f"sizes.context: expected at least 2 tokens, got {self.context}")


@dataclass(frozen=True)
class Config:
    """Text, sizes, optimisation, and how arms are compared.

    Attributes:
        rows: which rows of the post, the baseline GQA2-128 among them; by default all.
        windows: validation windows of `sizes.context` tokens, evenly spaced; at most as many as
            fit side by side.
        dtype: of activations.
        data, sizes, training, comparison: of all arms; peak learning rates are those of
            `comparison.rates`.
    """

    data: CorpusConfig = field(default_factory=CorpusConfig)
    sizes: SizesConfig = field(default_factory=SizesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    comparison: Comparison = field(default_factory=Comparison)
    rows: tuple[str, ...] = tuple(POST)
    windows: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        if self.windows < 1:
            raise ValueError(f"windows: expected at least 1, got {self.windows}")
        comparisons.check(self.training, self.comparison, least=2)
        rows = set(self.rows)
        if BASELINE not in rows or len(rows) < 3 or len(rows) < len(self.rows) or rows - set(POST):
            raise ValueError(
                f"rows: expected {BASELINE} and two others of {', '.join(POST)}; got "
                f"{', '.join(self.rows)}"
            )


PRESETS = {
    "quick": Config(
        sizes=SizesConfig(32, 1, 4, 32, 8),
        training=TrainingConfig(steps=10, batch_size=4, warmup=2, eval_every=10),
        comparison=Comparison(seeds=2, rates=(1e-2,)),
        rows=("MLA", BASELINE, "GQA1-256", "GQA1-256-PR", "GQA2-(192+64)-S2"),
        windows=16,
    ),
    "cpu": Config(
        data=CorpusConfig("tiny_shakespeare"),
        training=TrainingConfig(
            steps=600, batch_size=16, warmup=50, eval_every=200, checkpoint_every=200
        ),
        comparison=Comparison(rates=(4e-3,)),
        windows=580,
    ),
    # The post's sizes; its text is not public, its batch of 256 follows from tokens and steps.
    "paper": Config(
        data=CorpusConfig("c4/en", vocabulary=32_000, tokens=16_100_000_000),
        sizes=SizesConfig(2048, 12, 16, 4096, 128),
        training=TrainingConfig(
            steps=16_000,
            batch_size=256,
            warmup=1000,
            beta2=0.95,
            accumulate=32,
            eval_every=1000,
            checkpoint_every=500,
        ),
        comparison=Comparison(3, (3e-4,), vectorised=False),
        windows=512,
        dtype="bfloat16",
    ),
}


def all_arms(config: Config) -> list[Arm]:
    """The rows of the post, in its order."""
    sizes = config.sizes
    mixers, d = _mixers(sizes), sizes.d_model
    found = []
    for name in (name for name in POST if name in config.rows):
        kind, _, change = name.partition(", ")
        mixer = mixers[kind]
        if change == "twice the heads":
            mixer = replace(mixer, n_heads=2 * sizes.n_heads)
        decoder = TransformerConfig(config.data.size, sizes.n_layers, mixer)
        if change == "smaller MLP":
            decoder = replace(decoder, d_ff=round(decoder.hidden * 4096 / 5456))
        narrow = change == "low-rank Q, O"
        # The post does not give the rank; a third of d is what its parameters amount to.
        changed = low_rank(decoder, d // 3) if narrow else None
        found.append(Arm(name, decoder, changed, config.dtype))
    return found


def _mixers(sizes: SizesConfig) -> dict[str, Any]:
    d, heads, one = sizes.d_model, sizes.n_heads, sizes.unit
    half, double = one // 2, 2 * one

    def grouped(groups: int, width: int, rotated: int | None = None) -> GroupedConfig:
        return GroupedConfig(d, heads, groups, head_dim=width, rope_dims=rotated)

    def tied(kind: str, groups: int, plain: int) -> TiedConfig:
        return TiedConfig(d, heads, groups, nope_dim=plain, rope_dim=half, kind=kind)

    def latent(plain: int, values: int) -> LatentConfig:
        return LatentConfig(d, heads, 4 * one, nope_dim=plain, rope_dim=half, value_dim=values)

    return {
        "MHA": grouped(heads, one),
        "MLA": latent(one, one),
        "MLA-256": latent(one + half, double),
        "GQA2-128": grouped(2, one),
        "GQA2-192": grouped(2, one + half),
        "GQA1-256": grouped(1, double),
        "GQA1-256-PR": grouped(1, double, half),
        "GQA2-(192+64)-S1": tied("s1", 2, one + half),
        "GQA2-(192+64)-S2": tied("s2", 2, one + half),
        "GQA4-(64+64)-S2": tied("s2", 4, half),
        "GQA4-(128+64)-S2": tied("s2", 4, one),
        "GQA1-(512+64)-S3": tied("s3", 1, 4 * one),
    }


def trained_networks(config: Config) -> dict[str, Network]:
    """What is trained, by name."""
    return arms.networks(all_arms(config))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all arms."""
    problem, about = arms.on_text(config.data, config.sizes.context, config.windows, run)
    rows = arms.run_all(all_arms(config), problem, config.training, config.comparison, METRIC, run)
    return {
        "rates_at_an_end": comparisons.at_an_end(rows, config.comparison.rates),
        "seeds": config.comparison.seeds,
        "data": about,
    }


def orderings(record: Record) -> dict[str, int]:
    """Pairs of arms whose losses differ in the post: in its order here, against it, undecided.

    Differences below 0.005 are left out: the post has one run of each arm.
    """
    names, counts = by_arm.names(record), {"as in the post": 0, "against it": 0, "inconclusive": 0}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            expected = POST[first][1] - POST[second][1]
            found = by_arm.difference(record, first, second, METRIC)
            if abs(expected) < 0.005 - 1e-9 or found is None:
                continue
            said = {"worse": 1, "better": -1}.get(verdicts.verdict(found), 0)
            same = said * expected
            counts["inconclusive" if same == 0 else list(counts)[same < 0]] += 1
    return counts


def rank_correlation(record: Record) -> Measurement:
    """Spearman's, of the arms' losses with the post's, over seeds."""
    from scipy import stats

    names = by_arm.names(record)
    post = [POST[name][1] for name in names]
    every = np.array([by_arm.values(record, name, METRIC) for name in names])
    ranks = [stats.rankdata(column) for column in (post, *every.T)]
    each = [float(np.corrcoef(ranks[0], mine)[0, 1]) for mine in ranks[1:]]
    return paired.difference(each, [0.0] * len(each))


def draw(record: Record):
    """Differences from the baseline, and our losses over the post's."""
    figure, axes = figures.new(columns=2, width=5.2, height=5.0, width_ratios=(1.3, 1.0))
    names, axis = by_arm.names(record), axes[0, 1]
    verdicts.draw_differences(axes[0, 0], record, names, BASELINE, METRIC)
    axes[0, 0].set(title="losses (and numbers cached a token and layer)")
    kinds = {"MHA": "MHA", "MLA": "MLA", "S": "shared keys and values", "GQA": "GQA"}
    styles = dict(zip(kinds.values(), figures.styles(), strict=False))
    for name in names:
        loss = POST[name][1]
        kind = next(k for k in ("-S", "MHA", "MLA", "GQA") if k in name).lstrip("-")
        values = by_arm.values(record, name, METRIC)
        known = axis.get_legend_handles_labels()[1]
        label = None if kinds[kind] in known else kinds[kind]
        style = {**styles[kinds[kind]], "linestyle": "none", "markersize": 6}
        axis.plot([loss], [np.mean(values)], label=label, **style)
    axis.set(xlabel="loss of the post (nats a token)", ylabel="our loss (bits a byte)")
    axis.set(title="every arm, at both scales")
    figures.legend_below(figure, columns=4)
    return figure


def table(record: Record) -> str:
    """All arms beside the post's rows, then what became of its orderings."""
    names = by_arm.names(record)
    lines = verdicts.table(record, names, BASELINE, METRIC, "arm")
    lines[0] += " the post's loss | minus it | its parameters, cache |"
    lines[1] += " --- | --- | --- |"
    for place, name in enumerate(names, 2):
        parameters, loss, cache = POST[name]
        less = loss - POST[BASELINE][1]
        lines[place] += f" {loss} | {less:+.3f} | {parameters}M, {cache} |"
    pairs = orderings(record)
    counts = ", ".join(f"{value} {name}" for name, value in pairs.items())
    chance = 0.05 * sum(pairs.values())
    rank = rank_correlation(record)
    return "\n".join(
        [
            *lines,
            "",
            f"{record.result['seeds']} paired seeds, intervals of 95 %; text: "
            f"{record.result['data']['source']}. Orderings of pairs whose "
            f"losses in the post differ by 0.005 or more: {counts} (by chance some {chance:.0f} "
            "would exclude zero). Rank correlation with the post's losses, over seeds: "
            f"{rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}].",
            "",
        ]
    )


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about arms and trainings."""
    return arms.describe(all_arms(config), config.training, config.comparison, config.sizes.context)


def programs(config: Config) -> dict[str, Program]:
    """The training step of every arm."""
    return arms.programs(all_arms(config), config.training, config.comparison, config.sizes.context)


def counts_at_full_size(record: Record) -> float:
    """Largest deviation from the post of a row's parameters minus the baseline's, in millions."""
    every = all_arms(replace(PRESETS["paper"], rows=tuple(record.config["rows"])))
    ours = {arm.name: arms.parameters(arm) / 1e6 for arm in every}
    less = {name: POST[name][0] - POST[BASELINE][0] for name in ours}
    return max(abs(ours[name] - ours[BASELINE] - less[name]) for name in ours)


def cache_at_full_size(record: Record) -> float:
    """Cached numbers over the post's, of the row where they differ most."""
    every = all_arms(replace(PRESETS["paper"], rows=tuple(record.config["rows"])))
    found = [arms.cache_elements(arm) / POST[arm.name][2] for arm in every]
    return max(found, key=lambda ratio: abs(ratio - 1.0))


_ordering = functools.partial(
    verdicts.ordering, source="https://kexue.fm/archives/10907, its tables", metric=METRIC
)
CLAIMS = (
    Claim(
        id="mla_good.parameters",
        statement="at the post's sizes, parameters of every row less those of GQA2-128: largest "
        "deviation from the post's, in the millions to which it rounds",
        source="https://kexue.fm/archives/10907, its tables",
        measure=counts_at_full_size,
        paper=0.0,
        tolerance=1.0,
    ),
    Claim(
        id="mla_good.cache",
        statement="at the post's sizes, numbers cached a token and layer over the post's, worst",
        source="https://kexue.fm/archives/10907, its tables",
        measure=cache_at_full_size,
        paper=1.0,
    ),
    _ordering("mla_good.head_dim", "larger heads at equal cache", BASELINE, "GQA1-256"),
    _ordering(
        "mla_good.head_dim_equal",
        "larger heads at equal cache and parameters",
        BASELINE,
        "GQA1-256, low-rank Q, O",
    ),
    _ordering("mla_good.partial_rope", "partial rotary embedding", "GQA1-256", "GQA1-256-PR"),
    _ordering(
        "mla_good.shared",
        "keys shared with values, at equal cache and parameters",
        BASELINE,
        "GQA4-(64+64)-S2",
    ),
    _ordering(
        "mla_good.shared_wide",
        "keys shared with values, of large heads",
        "GQA1-256-PR",
        "GQA2-(192+64)-S2",
    ),
    _ordering(
        "mla_good.vo_rope",
        "rotated values instead of values of their own",
        "GQA2-(192+64)-S1",
        "GQA2-(192+64)-S2",
    ),
    _ordering("mla_good.mla", "MLA at about equal cache", BASELINE, "MLA"),
    _ordering("mla_good.mla_256", "MLA with larger heads", "MLA", "MLA-256"),
    _ordering("mla_good.s3", "MLA as it decodes, trained so", "MLA", "GQA1-(512+64)-S3"),
    _ordering(
        "mla_good.heads",
        "larger heads rather than more, at equal cache and parameters",
        "GQA2-128, twice the heads",
        "GQA1-256",
    ),
    Claim(
        id="mla_good.rank",
        statement="rank correlation of the losses of all rows with the post's, above 0",
        source="https://kexue.fm/archives/10907, its tables",
        measure=rank_correlation,
        paper=0.0,
        kind="ordering",
    ),
)
