"""Language models without attention: loss at equal parameters, and speed of generation.

Reproduces: the comparison of arXiv 2405.06147, table 4 (WikiText-103: Hyena with RTF, Hyena with
S5, attention), as bits per byte of decoders that differ in their mixer only. All have as many
parameters, for SwiGLU's width takes up the rest, and share their seeds. A token is generated from a
state of one size by all but attention, which reads all the tokens before it: tokens a second are
measured against the context.
"""

import functools
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

import attention
from attention import GroupedConfig, Mixer, TransformerConfig, transformer
from experiments.attention import arms, verdicts
from experiments.attention.arms import Arm
from experiments.harness import by_arm, figures, sharding
from experiments.harness import comparison as comparisons
from experiments.harness.comparison import Comparison
from experiments.harness.corpora import CorpusConfig
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.harness.weights import Network
from experiments.ssm import learning, models
from experiments.ssm.learning import UpdateConfig
from experiments.ssm.models import Kind, ModelConfig

METRIC = "validation_bits_per_byte"
BASELINE = "attention"


@dataclass(frozen=True)
class Config:
    """Text, decoders, and how they are compared.

    Attributes:
        model: mixer, width, layers, size, heads and dropout of the first decoder.
        against: mixers of further decoders; attention is always compared.
        context: tokens of a window in training and validation.
        windows: number of validation windows, evenly spaced; at most as many as fit side by side.
        contexts: numbers of tokens already read, at which the speed of generation is measured.
        dtype: of activations.
        data, training, comparison, update: of all decoders.
    """

    data: CorpusConfig = field(default_factory=CorpusConfig)
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            mixer="gated_rtf",
            channels=32,
            layers=1,
            size=16,
            rtf_init="xavier",
            rtf_constraint="l1",
        )
    )
    against: tuple[Kind, ...] = ()
    context: int = 64
    windows: int = 32
    contexts: tuple[int, ...] = (64, 256)
    dtype: Literal["float32", "bfloat16"] = "float32"
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=40, batch_size=8, warmup=5, eval_every=40, checkpoint_every=40
        )
    )
    comparison: Comparison = field(default_factory=lambda: Comparison(2, (5e-3,)))
    update: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self):
        comparisons.check(self.training, self.comparison, least=2)
        if self.context < 2 or self.windows < 1 or not self.contexts or min(self.contexts) < 1:
            raise ValueError(
                "context, windows, contexts: expected at least 2, 1 and some of at least 1, got "
                f"{self.context}, {self.windows}, {self.contexts}"
            )
        if self.model.bidirectional:
            raise ValueError("model.bidirectional: expected False, a language model reads forward")
        models.refuse(self.model, "norm", "prenorm", "activation", "remat")
        models.check(self.model, self.against, self.context)


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        data=CorpusConfig("tiny_shakespeare"),
        model=ModelConfig(
            mixer="gated_rtf",
            channels=64,
            size=64,
            s5_size=128,
            mamba_size=16,
            rtf_init="xavier",
            rtf_constraint="l1",
        ),
        against=("s5", "mamba"),
        context=256,
        windows=200,
        contexts=(256, 1024, 4096, 16_384),
        training=TrainingConfig(
            steps=600,
            batch_size=16,
            warmup=50,
            eval_every=300,
            checkpoint_every=100,
            log_every=50,
        ),
        comparison=Comparison(3, (3e-3, 1e-2)),
    ),
    # Section 4.4 and its configuration: 100 epochs at 128 windows of 1024; its tokens are GPT-2's.
    "paper": Config(
        data=CorpusConfig(path="wikitext-103", vocabulary=50_257),
        model=ModelConfig(
            mixer="gated_rtf",
            channels=768,
            layers=12,
            size=64,
            s5_size=768,
            mamba_size=16,
            heads=12,
            dropout=0.25,
            rtf_init="xavier",
            rtf_constraint="l1",
        ),
        against=("s5", "mamba"),
        context=1024,
        windows=200,
        contexts=(1024, 4096, 16_384, 65_536),
        dtype="bfloat16",
        training=TrainingConfig(
            steps=90_000,
            batch_size=128,
            warmup=900,
            weight_decay=0.25,
            accumulate=4,
            eval_every=3000,
            checkpoint_every=3000,
        ),
        comparison=Comparison(3, (1e-3,), vectorised=False),
        update=UpdateConfig(final=0.1),
    ),
}


def all_arms(config: Config) -> list[Arm]:
    """Attention, the model's mixer and the others, all with attention's number of parameters."""
    model = config.model
    decoder = TransformerConfig(
        config.data.size, model.layers, GroupedConfig(model.channels, model.heads)
    )
    update = functools.partial(learning.optimizer, update=config.update)
    plain = Arm(BASELINE, decoder, None, config.dtype, model.dropout, update)
    target = arms.parameters(plain)
    others = [arm for arm in models.arms(model, config.against) if arm.name != BASELINE]
    return [
        plain,
        *(
            arms.matched(
                replace(
                    plain,
                    name=arm.name,
                    mixer=mixer_of(arm.model, config.context),
                    partition=functools.partial(_partition, arm.model),
                ),
                target,
            )
            for arm in others
        ),
    ]


def _partition(model: ModelConfig, size: int) -> sharding.Rules:
    return (*models.partition(model, size), *attention.partition.AROUND)


@functools.lru_cache
def mixer_of(model: ModelConfig, length: int) -> Mixer:
    """A mixer of `ssm`, the same object for the same model."""
    return Mixer(**models.make_mixer(model, length)._asdict())


def trained_networks(config: Config) -> dict[str, Network]:
    """What is trained, by name."""
    return arms.networks(all_arms(config))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Time, tune, train and measure all decoders."""
    problem, about = arms.on_text(config.data, config.context, config.windows, run)
    chosen = all_arms(config)
    measured = {(row["timed"], row["context"]) for row in run.tracker.rows() if "timed" in row}
    for context in config.contexts:
        for arm in chosen:
            if (arm.name, context) not in measured:
                speed = tokens_per_second(config, arm, context)
                step = len(run.tracker.rows())
                run.tracker.log(step, timed=arm.name, context=context, tokens_per_second=speed)
                run.check_stop()
    rows = arms.run_all(chosen, problem, config.training, config.comparison, METRIC, run)
    return {
        "seeds": config.comparison.seeds,
        "rates_at_an_end": comparisons.at_an_end(rows, config.comparison.rates),
        "parameters": arms.parameters(chosen[0]),
        "data": about,
    }


def tokens_per_second(config: Config, arm: Arm, context: int, seconds: float = 0.5) -> float:
    """Speed of greedy generation of one sequence after `context` tokens; the fastest of some runs.

    They are read as a prompt, but by attention, which would form all pairs: it gets a cache of that
    length, whose contents change nothing about the time.
    """
    steps, mixer = 32, None
    if arm.mixer is not None:
        (model,) = (
            one.model for one in models.arms(config.model, config.against) if one.name == arm.name
        )
        mixer = mixer_of(model, max(context, config.context))
    both = {"config": arm.decoder, "mixer": mixer}
    params = jax.jit(functools.partial(transformer.init, **both))(jax.random.key(0))
    prepared = jax.jit(functools.partial(transformer.prepare, **both))(params)

    def generate(prepared: Any, state: Any) -> jax.Array:
        def body(carry: Any, _: Any) -> Any:
            state, token = carry
            state, logits = transformer.step(prepared, state, token, **both)
            token = jnp.argmax(logits, -1).astype(token.dtype)
            return (state, token), token

        return jax.lax.scan(body, (state, jnp.zeros(1, jnp.int32)), length=steps)[1]

    state = transformer.init_state(arm.decoder, 1, context + steps, mixer=mixer)
    if mixer is None:
        filled = jnp.full(1, context, jnp.int32)
        state = tuple(one._replace(length=filled) for one in state)
    else:
        prompt = jax.random.randint(jax.random.key(1), (1, context), 0, arm.decoder.vocab_size)
        read = jax.jit(functools.partial(transformer.prefill, **both, last=True))
        state, _ = read(params, prompt, state)
    compiled = jax.jit(generate)
    jax.block_until_ready(compiled(prepared, state))
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end or best == float("inf"):
        jax.block_until_ready(compiled(prepared, state))
        best = min(best, time.perf_counter() - start)
    return steps / best


def _speeds(record: Record, arm: str) -> dict[int, float]:
    rows = [row for row in record.rows if row.get("timed") == arm]
    return {row["context"]: row["tokens_per_second"] for row in rows}


def draw(record: Record):
    """Differences of losses from attention's, and speeds of generation."""
    figure, axes = figures.new(1, 2, width=4.6, height=3.3)
    chosen = by_arm.names(record)
    verdicts.draw_differences(axes[0, 0], record, chosen, BASELINE, METRIC)
    axes[0, 0].set(title="loss (and numbers cached a token)")
    axis = axes[0, 1]
    for arm, style in zip(chosen, figures.styles(), strict=False):
        speeds = _speeds(record, arm)
        rates = [rate / 1000.0 for rate in speeds.values()]
        axis.plot([*speeds], rates, label=figures.spelled(arm), **style)
    figures.logarithmic(axis, "x")
    axis.set(xlabel="context, tokens", ylabel="thousand tokens a second", ylim=(0, None))
    axis.set(title="generation")
    axis.legend(loc="center right", bbox_to_anchor=(1.0, 0.38))
    figures.legend_below(figure, axes=[axes[0, 0]])
    return figure


def table(record: Record) -> str:
    """Losses, differences, and speeds."""
    chosen, contexts = by_arm.names(record), record.config["contexts"]
    lines = verdicts.table(record, chosen, BASELINE, METRIC, "equal parameters")
    lines += [
        "",
        "| tokens a second behind | " + " | ".join(map(str, contexts)) + " |",
        "| --- |" + " --- |" * len(contexts),
    ]
    for arm in chosen:
        cells = [f"{speed:.0f}" for speed in _speeds(record, arm).values()]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    ends = ", ".join(record.result["rates_at_an_end"]) or "none"
    return "\n".join(
        [
            *lines,
            "",
            f"{record.result['seeds']} paired seeds, intervals of 95 %; *inconclusive*: the "
            f"interval covers zero. Learning rates at an end of their grid: {ends}. Text: "
            f"{record.result['data']['source']}.",
            "",
        ]
    )


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about decoders and trainings."""
    return arms.describe(all_arms(config), config.training, config.comparison, config.context)


def programs(config: Config) -> dict[str, Program]:
    """The training step of every decoder."""
    return arms.programs(all_arms(config), config.training, config.comparison, config.context)


def _within(mixer: str, record: Record) -> Measurement | None:
    """A tenth of a bit minus what the mixer loses to attention."""
    found = by_arm.difference(record, mixer, BASELINE, METRIC)
    if found is None:
        return None
    return Measurement(0.1 - found.value, 0.1 - found.high, 0.1 - found.low)


def _flat(record: Record) -> float | None:
    """Least ratio, over mixers but attention, of speeds behind the longest and shortest context."""
    found = []
    for arm in by_arm.names(record):
        speeds = _speeds(record, arm)
        if arm != BASELINE and len(speeds) > 1:
            found.append(speeds[max(speeds)] / speeds[min(speeds)])
    return min(found, default=None)


def _better(record: Record) -> Measurement | None:
    return by_arm.difference(record, BASELINE, "gated_rtf", METRIC)


TABLE_4 = "arXiv 2405.06147, table 4, WikiText-103, about 125M parameters"
CLAIMS = (
    *(
        Claim(
            f"ssm_language_model.{mixer}",
            f"0.1 minus what {mixer} loses to attention at equal parameters, bits per byte, "
            "above 0",
            "this project's own goal",
            functools.partial(_within, mixer),
            0.0,
            kind="ordering",
        )
        for mixer in ("gated_rtf", "s5", "mamba", "mamba2")
    ),
    Claim(
        "ssm_language_model.flat",
        "tokens a second behind the longest context over those behind the shortest, of the mixer "
        "without attention that slows down most, above 0.8",
        "this project's own goal: the state has one size",
        _flat,
        0.8,
        kind="ordering",
    ),
    Claim(
        "ssm_language_model.order",
        "bits per byte of attention minus those of gated RTF at equal parameters, above 0",
        f"{TABLE_4}: perplexities of 18.6 and 18.0",
        _better,
        0.0,
        kind="ordering",
    ),
    *(
        Claim(
            f"ssm_language_model.perplexity_{name}",
            f"perplexity of {name}; its tokens are words cut by GPT-2's tokenizer, ours are not",
            TABLE_4,
            lambda record: None,
            value,
            tolerance=0.2,
            kind="value",
        )
        for name, value in (("transformer", 18.6), ("hyena_s5", 18.3), ("hyena_rtf", 18.0))
    ),
)
