"""Decoding against its roofline: what is timed is right, and what is recorded is complete."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import transformer
from experiments import commands
from experiments.attention import decoding

SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 24, "latent_dim": 8, "rope_dim": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", decoding.VARIANTS)
def test_every_variant_decodes_what_the_whole_sequence_gives(name, x64):
    config = decoding.Config(**SMALL)
    one, mixer = config.decoder(name), decoding.mixer_of(config, name)
    params = transformer.init(jax.random.key(0), one)
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 6)))
    whole = transformer.apply(params, tokens, one)
    prepared = transformer.prepare(params, one, mixer)
    state = transformer.init_state(one, 2, 6, float, mixer=mixer)
    for t in range(6):
        state, logits = transformer.step(prepared, state, tokens[:, t], one, mixer=mixer)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-11)


def test_rooflines_follow_bytes_or_products():
    config = decoding.Config(**SMALL)
    context, width = 100, 8
    for name, elements, operations in (
        ("MHA", 2 * 16, 4 * 16),
        ("GQA", 2 * 16, 4 * 16),
        ("MQA", 2 * width, 4 * 16),
        ("MLA absorbed", 12, 2 * 2 * (2 * 8 + 4)),
        ("MLA cached in full", 2 * (width + 4 + width), 2 * 2 * (width + 4 + width)),
    ):
        slow_memory = decoding.roofline(config, name, context, (1.0, 1e30))
        other = decoding.roofline(config, name, 2 * context, (1.0, 1e30))
        assert other - slow_memory == pytest.approx(4 * 2 * context * elements), name
        slow_products = decoding.roofline(config, name, context, (1e30, 1.0))
        assert slow_products == pytest.approx(2 * context * operations), name
    expanded = decoding.roofline(config, "MLA expanded", context, (1e30, 1.0))
    expansion = context * 2 * 2 * 8 * (width + width)
    assert expanded == pytest.approx(2 * (expansion + context * 2 * 2 * (2 * width + 4)))


@pytest.mark.slow
def test_a_run_records_every_variant_and_resumes(tmp_path):
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    options += ["--contexts", "16", "32", "--rounds", "2", "--seconds", "0.001"]
    record = commands.run("attention/decoding", "quick", options, tmp_path / "run")
    assert [row["step"] for row in record.rows] == list(range(12))
    assert all(len(row["turns"]) == 2 and row["roofline"] > 0 for row in record.rows)
    assert (record.directory / "figure.png").stat().st_size > 0
    assert "| 32 | MLA absorbed |" in (record.directory / "table.md").read_text()
    for claim in decoding.CLAIMS:
        measured = claim.measure(record)
        assert measured.low <= measured.value <= measured.high
        assert claim.kind == "ordering"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ("MHA", "flash")}, r"variants: expected some of .*, got 'flash'"),
        ({"contexts": (1,)}, "contexts: expected at least 2 tokens"),
        ({"seconds": 0.0}, "rounds, seconds: expected at least 1 and more than 0"),
        ({"n_kv_heads": 3}, "n_kv_heads: expected a divisor of n_heads"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        decoding.Config(**options)
