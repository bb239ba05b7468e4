"""Values that are keys: every kind against loops over the definitions, and their caches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import attention as reference

from attention import (
    TiedConfig,
    TransformerConfig,
    accounting,
    cache_bytes,
    entries,
    rope,
    tied,
    transformer,
)

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, 9)))
SIZES = {"d_model": 12, "n_heads": 4, "n_kv_heads": 2, "nope_dim": 5, "rope_dim": 4}
CASES = [
    TiedConfig(**SIZES, kind=kind, window=window, rope_layout=layout)
    for kind, window, layout in (
        ("s1", None, "half"),
        ("s2", None, "half"),
        ("s2", 4, "interleaved"),
        ("s3", None, "interleaved"),
        ("gta", None, "half"),
        ("gta", 4, "half"),
    )
]
IDS = [f"{case.kind}-{case.window}" for case in CASES]


def loop(params, x, config, start=0):
    """One layer, head by head and pair by pair, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    c, (time, _) = config, x.shape
    n, r, groups = c.nope_dim, c.rope_dim, c.n_kv_heads

    def turned(v, place):
        return reference.rotate(v, place, c.rope_base, c.rope_layout)

    q, row = (x @ p["query"]).reshape(time, c.n_heads, n + r), x @ p["entry"]
    out = np.zeros((time, c.n_heads, c.value_dim))
    for head in range(c.n_heads):
        group = head // (c.n_heads // groups)
        keys, values = [], []
        for s in range(time):
            one = row[s, group * c.group_width : (group + 1) * c.group_width]
            plain, rest = one[:n], one[n:]
            own = row[s, -r:] if c.kind == "gta" else rest[:r]
            spun = turned(own, start + s)
            keys.append(np.concatenate([plain, spun]))
            values.append(
                {
                    "s1": np.concatenate([plain, rest[r:]]),
                    "s2": keys[-1],
                    "s3": plain,
                    "gta": one,
                }[c.kind]
            )
        for t in range(time):
            mine = np.concatenate([q[t, head, :n], turned(q[t, head, n:], start + t)])
            seen = [s for s in range(t + 1) if c.window is None or t - s < c.window]
            score = np.array([mine @ keys[s] for s in seen]) / np.sqrt(n + r)
            weight = np.exp(score - score.max())
            total = sum(w * values[s] for w, s in zip(weight / weight.sum(), seen, strict=True))
            if c.kind == "s2":
                total = np.concatenate([total[:n], turned(total[n:], -(start + t))])
            out[t, head] = total
    return out.reshape(time, -1) @ p["output"]


def layer(config):
    params = tied.init(jax.random.key(0), config)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.zeros(0).dtype), params)
    return params, jax.random.normal(jax.random.key(1), (2, 9, 12))


@pytest.mark.sample(3)
@pytest.mark.parametrize("config", CASES, ids=IDS)
def test_layers_are_their_definitions(config, x64):
    params, x = layer(config)
    found = tied.mixer(config).apply(params, x)
    for one, expected in zip(found, x, strict=True):
        np.testing.assert_allclose(one, loop(params, np.asarray(expected), config), atol=1e-12)


@pytest.mark.parametrize("config", CASES, ids=IDS)
def test_positions_matter_by_their_distance_alone(config, x64):
    """Also of values that are rotated, since sums are rotated back."""
    params, x = layer(config)
    one = tied.mixer(config)
    far = jnp.broadcast_to(300 + jnp.arange(9), (2, 9))
    np.testing.assert_allclose(
        one.apply(params, x, positions=far), one.apply(params, x), atol=1e-11
    )


def test_sums_that_are_not_rotated_back_depend_on_the_place(x64):
    config = CASES[1]
    params, x = layer(config)
    far = jnp.broadcast_to(300 + jnp.arange(9), (2, 9))
    variant = tied.mixer(config).apply.keywords["variant"]
    plain = variant._replace(finish=lambda params, sums, positions: sums)
    found = [entries.apply(params, x, plain, place) for place in (None, far)]
    assert np.max(np.abs(found[0] - found[1])) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES, ids=IDS)
def test_caches_give_what_whole_sequences_give(config, x64):
    """Prompts, chunks, single tokens, ragged, with the bytes that were promised."""
    decoder = TransformerConfig(13, 2, config, d_ff=16, tie_embeddings=False)
    params = transformer.init(jax.random.key(0), decoder)
    expected = transformer.apply(params, TOKENS, decoder)
    state = transformer.init_state(decoder, 2, 9, jnp.float64)
    state, first = transformer.prefill(params, TOKENS[:, :4], state, decoder)
    state, second = transformer.extend(params, TOKENS[:, 4:7], state, decoder)
    state, third = transformer.step(params, state, TOKENS[:, 7], decoder)
    state, fourth = transformer.step(params, state, TOKENS[:, 8], decoder)
    found = jnp.concatenate([first, second, third[:, None], fourth[:, None]], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    slots = 9 if config.window is None else config.window
    assert cache_bytes(decoder, 2, 9, jnp.float32) == 2 * 2 * slots * config.cache_elements * 4

    state = transformer.init_state(decoder, 2, 9, jnp.float64)
    lengths = jnp.array([3, 5])
    state, _ = transformer.prefill(params, TOKENS[:, :5], state, decoder, lengths)
    _, found = transformer.step(params, state, TOKENS[:, 5], decoder)
    ragged = jnp.concatenate([TOKENS[:1, :3], TOKENS[:1, 5:6]], axis=1)
    alone = transformer.apply(params, ragged, decoder)[0, -1]
    np.testing.assert_allclose(found[0], alone, atol=1e-10)
    np.testing.assert_allclose(found[1], expected[1, 5], atol=1e-10)


def test_caches_are_those_of_the_post():
    """https://kexue.fm/archives/10907, parts III to V, and half a head more for GTA."""
    sizes = {"d_model": 2048, "n_heads": 16}
    for kind, groups, plain, turned, cached in (
        ("s1", 2, 192, 64, 640),
        ("s2", 2, 192, 64, 512),
        ("s2", 4, 64, 64, 512),
        ("s2", 4, 128, 64, 768),
        ("s3", 1, 512, 64, 576),
        ("gta", 2, 64, 64, 320),
    ):
        config = TiedConfig(**sizes, n_kv_heads=groups, nope_dim=plain, rope_dim=turned, kind=kind)
        assert config.cache_elements == cached


@pytest.mark.parametrize("kind", tied.KINDS)
def test_operations_are_those_of_the_projections(kind):
    config = TiedConfig(**SIZES, kind=kind)
    decoder = TransformerConfig(13, 2, config, d_ff=16)
    count = accounting.parameters(decoder)["attention"]
    assert accounting.operations(decoder, tokens=5)["projections"] == 2 * 5 * count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads: expected a divisor of n_heads = 4, got 3"),
        ({"kind": "s4"}, "kind: expected one of"),
        ({"rope_dim": 3}, "rope_dim: expected an even number"),
        ({"nope_dim": 0}, "nope_dim: expected a whole number of at least 1"),
        ({"rope_base": 0.5}, "rope_base: expected a finite number above 1"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TiedConfig(**SIZES), **options)


def test_values_turned_back_keep_their_size(x64):
    """One token sees itself alone: YaRN's amplitude must not be left in what it reads."""
    plain = TiedConfig(**SIZES, kind="s2")
    scaled = dataclasses.replace(plain, rope_scaling=rope.Yarn(4.0, 16))
    params = jax.tree.map(lambda leaf: leaf.astype(float), tied.init(jax.random.key(0), plain))
    x = jax.random.normal(jax.random.key(1), (2, 1, 12), float)
    found, expected = (tied.mixer(config).apply(params, x) for config in (scaled, plain))
    np.testing.assert_allclose(found, expected, atol=1e-14)
