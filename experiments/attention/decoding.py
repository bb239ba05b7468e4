"""Milliseconds per decoded token against context length, beside the machine's roofline.

Reproduces: the argument of the post https://kexue.fm/archives/10091 (decoding reads the whole
cache for every token, so a smaller cache is a faster one; MLA pays only if it is absorbed) for MHA,
GQA, MQA and MLA in three ways: all keys and values cached, latents cached and expanded for every
token, latents absorbed. The roofline adds the time to read the weights and the larger of two times
for attention: reading the live cache, and its products, at speeds measured in the same process.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from attention import (
    GroupedConfig,
    LatentConfig,
    Mixer,
    TransformerConfig,
    accounting,
    cache,
    cache_bytes,
    grouped,
    latent,
    live,
    transformer,
)
from experiments.harness import figures
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run

VARIANTS = ("MHA", "GQA", "MQA", "MLA cached in full", "MLA expanded", "MLA absorbed")


@dataclass(frozen=True)
class Config:
    """Decoders and contexts.

    Attributes:
        variants: kinds of attention and cache to time, some of `VARIANTS`.
        contexts: context lengths in tokens, each timed with a cache of that capacity.
        d_model, n_layers, n_heads, d_ff: of all decoders; heads are d_model / n_heads wide.
        n_kv_heads: key/value heads of GQA.
        latent_dim, rope_dim: d_c and d_r of MLA.
        batch: number of sequences decoded together.
        dtype: of weights and cache.
        rounds, seconds: variants are timed in turns: how many each, and how long one lasts.
    """

    variants: tuple[str, ...] = VARIANTS
    contexts: tuple[int, ...] = (256, 1024)
    d_model: int = 256
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int = 704
    n_kv_heads: int = 2
    latent_dim: int = 128
    rope_dim: int = 32
    batch: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    rounds: int = 3
    seconds: float = 0.05

    def __post_init__(self):
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"variants: expected some of {', '.join(VARIANTS)}, got {name!r}")
        if not self.contexts or min(self.contexts) < 2:
            raise ValueError(f"contexts: expected at least 2 tokens, got {self.contexts}")
        if self.rounds < 1 or self.seconds <= 0:
            raise ValueError("rounds, seconds: expected at least 1 and more than 0")
        for name in VARIANTS:
            self.decoder(name)

    def decoder(self, name: str) -> TransformerConfig:
        """The decoder of a variant."""
        groups = {"MHA": self.n_heads, "GQA": self.n_kv_heads, "MQA": 1}
        if name in groups:
            mixer = GroupedConfig(self.d_model, self.n_heads, groups[name])
        else:
            mixer = self.latent("materialised" if name == "MLA expanded" else None)
        return TransformerConfig(256, self.n_layers, mixer, d_ff=self.d_ff)

    def latent(self, form: str | None = None) -> LatentConfig:
        """The attention of MLA."""
        width = self.d_model // self.n_heads
        size, rotated = (self.d_model, self.n_heads, self.latent_dim), self.rope_dim
        return LatentConfig(*size, nope_dim=width, rope_dim=rotated, value_dim=width, form=form)


TIMED = True  # nothing may run beside it
PRESETS = {
    "quick": Config(),
    "cpu": Config(
        contexts=(512, 1024, 2048, 4096, 8192, 16_384),
        d_model=512,
        n_layers=4,
        n_heads=8,
        d_ff=1408,
        latent_dim=256,
        rounds=5,
        seconds=0.2,
    ),
    # The attention of DeepSeek-V2-Lite (arXiv 2405.04434, appendix B), all layers dense.
    "paper": Config(
        contexts=(1024, 4096, 16_384, 32_768),
        d_model=2048,
        n_layers=27,
        n_heads=16,
        d_ff=10_944,
        latent_dim=512,
        rope_dim=64,
        n_kv_heads=2,
        dtype="bfloat16",
        rounds=5,
        seconds=0.5,
    ),
}


def mixer_of(config: Config, name: str) -> Mixer:
    """The mixer of a variant: two of MLA decode otherwise than the library does."""
    one = config.decoder(name).mixer
    if isinstance(one, GroupedConfig):
        return grouped.mixer(one)
    if name == "MLA cached in full":
        return _in_full(one)
    if name == "MLA expanded":
        return _expanded(one)
    return latent.mixer(one)


@functools.lru_cache
def _expanded(config: LatentConfig) -> Mixer:
    """Latents cached, keys and values of all of them expanded for every token."""

    def step(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        state, y = latent.extend(params, x[:, None], state, config=config)
        return state, y[:, 0]

    return latent.mixer(config)._replace(prepare=lambda params: params, step=step)


@functools.lru_cache
def _in_full(config: LatentConfig) -> Mixer:
    """Keys and values of all heads cached, as for MHA."""
    shape = (config.nope_dim + config.rope_dim, config.value_dim)

    def init_state(batch: int, capacity: int, dtype: Any = jnp.float32) -> cache.KVCache:
        keys, values = (
            jnp.zeros((batch, config.n_heads, capacity, width), dtype) for width in shape
        )
        return cache.KVCache(keys, values, jnp.zeros((batch,), jnp.int32))

    def step(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        positions, x = state.length[:, None], x[:, None]
        q = jnp.concatenate(latent.queries(params, x, positions, config), axis=-1)
        new = latent.expand(params, latent.latents(params, x, positions, config), config)
        keys, values = (
            cache.append(*pair, state.length)
            for pair in zip((state.keys, state.values), new, strict=True)
        )
        length = state.length + 1
        y = live.attend(q, keys, values, length, scale=config.scale)
        return cache.KVCache(keys, values, length), latent.merge(params, y)[:, 0]

    return latent.mixer(config)._replace(
        prepare=lambda params: params, init_state=init_state, step=step
    )


def program(config: Config, name: str, slots: int) -> Program:
    """A step of decoding at a place of the context; the state is donated."""
    one, mixer = config.decoder(name), mixer_of(config, name)

    def ready(key: Any) -> Any:
        params = transformer.init(key, one, mixer)
        params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
        return transformer.prepare(params, one, mixer)

    state = functools.partial(transformer.init_state, one, config.batch, slots, config.dtype)
    arguments = (
        jax.eval_shape(ready, jax.random.key(0)),
        jax.eval_shape(functools.partial(state, mixer=mixer)),
        jax.ShapeDtypeStruct((config.batch,), jnp.int32),
        jax.ShapeDtypeStruct((config.batch,), jnp.int32),
    )

    def step(prepared: Any, state: Any, tokens: Any, length: Any) -> tuple[Any, Any]:
        """Within the program, so that nothing but the step is timed."""
        state = tuple(layer._replace(length=length) for layer in state)
        return transformer.step(prepared, state, tokens, one, mixer=mixer)

    return Program(step, arguments, donate=(1,))


class Decoding:
    """A step at one place of the context: its state is put back there each time."""

    def __init__(self, config: Config, name: str, context: int, slots: int | None = None):
        one = program(config, name, slots or context)
        self.compiled = one.lower().compile()
        fill = functools.partial(jax.tree.map, lambda x: jnp.full(x.shape, 1e-2, x.dtype))
        self.prepared, self.state, *_ = jax.jit(fill)(one.arguments)
        self.tokens = jnp.zeros((config.batch,), jnp.int32)
        self.length = jnp.full((config.batch,), context - 1, jnp.int32)

    def __call__(self) -> jax.Array:
        """Logits of one step."""
        self.state, logits = self.compiled(self.prepared, self.state, self.tokens, self.length)
        return logits


def machine(rounds: int = 5, dtype: str = "float32") -> tuple[float, float]:
    """Bytes and operations a second: reading a large array, multiplying large matrices.

    Both grow until a call takes two milliseconds: on a fast device starting it takes as long as
    reading the array that is large for a slow one.
    """

    def reading(size: int) -> Callable[[], Any]:
        x = jnp.ones(size)
        return lambda: total(x)

    def multiplying(width: int) -> Callable[[], Any]:
        a = jnp.ones((width, width), dtype)
        return lambda: product(a, a)

    total, product = jax.jit(jnp.sum), jax.jit(jnp.matmul)
    size, width = _large(reading, 2**26, 2**30), _large(multiplying, 2048, 16_384)
    jobs = [reading(size), multiplying(width)]
    read, multiply = (min(turn) for turn in alternating(jobs, rounds, 0.05))
    return 4 * size / read, 2 * width**3 / multiply


def _large(job: Callable[[int], Callable[[], Any]], size: int, most: int) -> int:
    """The first doubling of a size at which a call of the job takes two milliseconds."""
    while size < most and min(alternating([job(size)], 1, 0.02)[0]) < 2e-3:
        size *= 2
    return size


def alternating(
    functions: list[Callable[[], Any]], rounds: int, seconds: float
) -> list[list[float]]:
    """Fastest call of each function in each round, in seconds, the functions taking turns."""
    for function in functions:
        jax.block_until_ready(function())
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, kept in zip(functions, times, strict=True):
            best, end = float("inf"), time.perf_counter() + seconds
            while (start := time.perf_counter()) < end or best == float("inf"):
                jax.block_until_ready(function())
                best = min(best, time.perf_counter() - start)
            kept.append(best)
    return times


def roofline(config: Config, name: str, context: int, speed: tuple[float, float]) -> float:
    """Seconds a token takes at least: the weights, then the cache or its products."""
    one, itemsize = config.decoder(name), jnp.dtype(config.dtype).itemsize
    weights = itemsize * sum(accounting.parameters(one).values())
    held = cache_bytes(one, config.batch, context, jnp.dtype(config.dtype))
    parts = accounting.operations(one, 1, context - 1)
    products = parts["attention"]
    if name == "MLA cached in full":
        mixer = config.latent()
        width = mixer.nope_dim + mixer.rope_dim + mixer.value_dim
        held = itemsize * config.n_layers * config.batch * context * mixer.n_heads * width
        products = accounting.operations(one, 1, context - 1, "materialised")["attention"]
    if name == "MLA expanded":
        parts = accounting.operations(one, 1, context - 1, "materialised")
        products = parts["attention"] + parts["expansion"]
    return weights / speed[0] + max(held / speed[0], config.batch * products / speed[1])


def main(config: Config, run: Run) -> dict[str, Any]:
    """Time all variants of a context in turns; contexts that are recorded are not repeated."""
    width = len(config.variants)
    done = {row["step"] for row in run.tracker.rows()}
    for place, context in enumerate(config.contexts):
        steps = range(place * width, (place + 1) * width)
        if done.issuperset(steps):
            continue
        speed = machine(dtype=config.dtype)
        runs = [Decoding(config, name, context) for name in config.variants]
        times = alternating(runs, config.rounds, config.seconds)
        for step, name, turns in zip(steps, config.variants, times, strict=True):
            run.tracker.log(
                step,
                variant=name,
                context=context,
                milliseconds=1e3 * min(turns),
                turns=[1e3 * turn for turn in turns],
                roofline=1e3 * roofline(config, name, context, speed),
                gigabytes_per_second=speed[0] / 1e9,
                gigaflops_per_second=speed[1] / 1e9,
            )
        run.check_stop()
    last = [r for r in run.tracker.rows() if r["context"] == config.contexts[-1]]
    result: dict[str, Any] = {f"{r['variant']}, ms": r["milliseconds"] for r in last}
    result |= {f"{r['variant']}, rooflines": r["milliseconds"] / r["roofline"] for r in last}
    return result


def draw(record: Record):
    """Time against context with its roofline, and how far above it."""
    figure, axes = figures.new(rows=1, columns=2, width=4.6, height=3.7)
    (left, right) = axes[0]
    for name, style in zip(record.config["variants"], figures.styles(), strict=False):
        rows = sorted(
            (r for r in record.rows if r["variant"] == name), key=lambda row: row["context"]
        )
        contexts, bounds = [r["context"] for r in rows], [r["roofline"] for r in rows]
        left.plot(contexts, [r["milliseconds"] for r in rows], label=name, **style)
        left.plot(contexts, bounds, color=style["color"], linewidth=0.8, alpha=0.6)
        right.plot(contexts, [r["milliseconds"] / r["roofline"] for r in rows], **style)
    left.plot([], [], color="#555555", linewidth=0.8, alpha=0.6, label="roofline of each")
    figures.logarithmic(left, "y")
    left.set(ylabel="ms a token", title="time of a decoded token")
    right.axhline(1.0, color="#777777", linewidth=1.0)
    right.set(ylabel="time over the roofline's", title="above the roofline")
    for axis in axes[0]:
        axis.set(xlabel="context (tokens)")
        axis.set_xscale("log", base=2)
    figures.legend_below(figure, columns=4)
    return figure


def table(record: Record) -> str:
    """Every measurement."""
    lines = [
        "| context | variant | ms a token | roofline ms | ratio | GB/s | GFLOP/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['context']} | {r['variant']} | {r['milliseconds']:.2f} | {r['roofline']:.2f} "
        f"| {r['milliseconds'] / r['roofline']:.2f} | {r['gigabytes_per_second']:.1f} "
        f"| {r['gigaflops_per_second']:.0f} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": "none: constant weights and caches"}


def programs(config: Config) -> dict[str, Program]:
    """A step of each variant at the longest context."""
    return {name: program(config, name, config.contexts[-1]) for name in config.variants}


def _ratio(record: Record, slow: str, fast: str) -> Measurement | None:
    """Time of one variant over that of another at the longest context, over the turns."""
    last = {r["variant"]: r for r in record.rows if r["context"] == record.config["contexts"][-1]}
    if slow not in last or fast not in last:
        return None
    pairs = zip(last[slow]["turns"], last[fast]["turns"], strict=True)
    ratios = [first / second for first, second in pairs]
    value = last[slow]["milliseconds"] / last[fast]["milliseconds"]
    return Measurement(value, min(*ratios, value), max(*ratios, value))


CLAIMS = tuple(
    Claim(
        id=f"decoding.{name}",
        statement=f"a token of {slow} takes longer than one of {fast} at the longest context",
        source=source,
        measure=functools.partial(_ratio, slow=slow, fast=fast),
        paper=1.0,
        kind="ordering",
    )
    for name, slow, fast, source in (
        ("gqa", "MHA", "GQA", "https://kexue.fm/archives/10091: a smaller cache decodes faster"),
        ("mqa", "GQA", "MQA", "https://kexue.fm/archives/10091: a smaller cache decodes faster"),
        (
            "absorbed",
            "MLA expanded",
            "MLA absorbed",
            "arXiv 2405.04434, section 2.1.2: absorbed, keys and values need not be computed",
        ),
        (
            "latent",
            "MLA cached in full",
            "MLA absorbed",
            "https://kexue.fm/archives/10091: MLA caches no more than its latents",
        ),
    )
)
