"""How to optimise: the configuration, and AdamW as it says."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import optax

# Ours, and those of Linen's modules, such as Dense_0 and GroupNorm_1.
VECTOR = re.compile(r"norm|Norm|_bias|shift|\['([A-Z]\w*|query|key|value|out)'\]\['bias'\]$")


@dataclass(frozen=True)
class TrainingConfig:
    """How to optimise; `eval_every`, `checkpoint_every` and `log_every` are numbers of steps.

    Attributes:
        steps: number of updates.
        batch_size: examples per update.
        learning_rate: peak; then a cosine to 0.1 of it (or `update.final`, `distill.final_rate`).
        warmup: steps of linear warm-up to the peak.
        weight_decay: of AdamW, on matrices only.
        beta2: second-moment decay of AdamW.
        clip: global norm to which larger gradients are scaled down; None: no clipping.
        ema: decay of the averaged weights used for evaluation; 0 turns averaging off.
        accumulate: micro-batches per update, a divisor of `batch_size`.
        eval_every, checkpoint_every, log_every: steps from one to the next.
        keep: number of the newest checkpoints that are kept.
        seed: of the initial weights, the order of the data and the noise.
    """

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.1
    beta2: float = 0.99
    clip: float | None = 1.0
    ema: float = 0.0
    accumulate: int = 1
    eval_every: int = 100
    checkpoint_every: int = 100
    log_every: int = 10
    keep: int = 2
    seed: int = 0

    def __post_init__(self):
        counts = ("steps", "batch_size", "accumulate", "eval_every", "checkpoint_every")
        for name in (*counts, "log_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name}: expected at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"training.accumulate: expected a divisor of batch_size = {self.batch_size}, "
                f"got {self.accumulate}"
            )
        for name in ("warmup", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"training.{name}: expected >= 0, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"training.seed: expected less than 2^32, got {self.seed}")
        if not (self.learning_rate > 0 and (self.clip is None or self.clip > 0)):
            raise ValueError(
                f"training.learning_rate, clip: expected > 0, got {self.learning_rate}, {self.clip}"
            )
        for name in ("ema", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.{name}: expected in [0, 1), got {getattr(self, name)}")


def make_optimizer(
    config: TrainingConfig, beta1: float = 0.9, final: float = 0.1
) -> optax.GradientTransformation:
    """AdamW behind gradient clipping; its rate warms up and falls by a cosine to `final` of it."""
    adamw = optax.adamw(
        make_schedule(config, config.learning_rate, final),
        b1=beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_is_matrix,
    )
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)
    return optax.chain(clip, adamw)


def make_schedule(config: TrainingConfig, peak: float, final: float = 0.1) -> optax.Schedule:
    """A rate that warms up to a peak and falls by a cosine to `final` of it."""
    warmup = min(config.warmup, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(
        peak / (warmup + 1), peak, warmup, config.steps, final * peak
    )


def _is_matrix(params: Any) -> Any:
    """Weight decay is for matrices; stacked vectors ([layers, d] gains) are not matrices."""

    def decays(path: Any, leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path)
        return leaf.ndim >= 2 and VECTOR.search(name) is None

    return jax.tree.map_with_path(decays, params)
