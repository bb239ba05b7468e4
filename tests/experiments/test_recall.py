"""Associative recall, and mixers that are changed: against plain loops, streamed as trained."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import GroupedConfig, LatentConfig, TransformerConfig, transformer
from experiments.attention import arms, mixers, recall
from experiments.attention.recall import TaskConfig
from experiments.harness.run import Record


def test_sequences_ask_for_what_they_showed():
    task = TaskConfig(pairs=5, length=20, keys=9, values=7)
    batch = recall.sequences(task, 50, 3, 4)
    assert batch["tokens"].shape == batch["targets"].shape == (50, 20)
    for tokens, targets in zip(batch["tokens"], batch["targets"], strict=True):
        known = dict(zip(tokens[0:10:2], tokens[1:10:2], strict=True))
        assert len(known) == 5 and min(known) >= 1 and max(known) <= 9
        asked = np.flatnonzero(targets >= 0)
        assert len(asked) == 5 and asked.min() >= 10
        assert {tokens[i]: targets[i] for i in asked} == known
        assert set(tokens[10:]) == {0, *known}
        assert targets.max() < task.vocabulary == 17 and targets[asked].min() > 9
    again, other = recall.sequences(task, 50, 3, 4), recall.sequences(task, 50, 3, 5)
    assert np.array_equal(again["tokens"], batch["tokens"])
    assert not np.array_equal(other["tokens"], batch["tokens"])


def test_loss_and_error_are_of_the_questions_alone():
    task = TaskConfig(pairs=3, length=12, keys=5, values=5)
    decoder = TransformerConfig(task.vocabulary, 1, GroupedConfig(8, 2), d_ff=8)
    params = transformer.init(jax.random.key(0), decoder)
    batch = jax.tree.map(jnp.asarray, recall.sequences(task, 6, 0, 0))
    nats, found = recall.loss(params, batch, jax.random.key(0), decoder)
    logits = np.asarray(transformer.apply(params, batch["tokens"], decoder), float)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.asarray(batch["targets"])
    asked = targets >= 0
    chosen = np.take_along_axis(logs, np.maximum(targets, 0)[..., None], -1)[..., 0]
    assert float(nats) == pytest.approx(-chosen[asked].mean(), rel=1e-5)
    wrong = logits.argmax(-1) != targets
    assert float(found["error"]) == pytest.approx(wrong[asked].mean(), abs=1e-7)


def test_every_arm_of_recall_caches_what_it_says():
    for arm in recall.all_arms(recall.PRESETS["cpu"]):
        assert arms.cache_elements(arm) == int(arm.name.split(", ")[1])


def changed(name, decoder):
    """A changed mixer of a decoder's attention."""
    if name == "low_rank":
        return mixers.low_rank(decoder, 3)
    return mixers.shifted(transformer.make_mixer(decoder.mixer), decoder.d_model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["low_rank", "shifted"])
@pytest.mark.parametrize(
    "mixer",
    [
        GroupedConfig(16, 4, 2),
        LatentConfig(16, 2, 8, nope_dim=4, rope_dim=4, value_dim=4),
    ],
    ids=["gqa", "mla"],
)
def test_changed_mixers_stream_as_they_are_trained(name, mixer):
    decoder = TransformerConfig(16, 2, mixer, d_ff=16)
    made = changed(name, decoder)
    params = transformer.init(jax.random.key(0), decoder, made)
    tokens = jax.random.randint(jax.random.key(1), (3, 9), 0, 16)
    whole = transformer.apply(params, tokens, decoder, mixer=made)
    state = transformer.init_state(decoder, 3, 12, mixer=made)
    lengths = jnp.array([4, 2, 3])
    state, logits = transformer.prefill(params, tokens[:, :4], state, decoder, lengths, mixer=made)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row, :length], whole[row, :length], atol=2e-5)
    # Every example goes on behind its own prompt.
    rest = jnp.stack([tokens[row, length : length + 3] for row, length in enumerate(lengths)])
    state, logits = transformer.extend(
        params, rest[:, :2], state, decoder, jnp.array([2, 2, 2]), mixer=made
    )
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row], whole[row, length : length + 2], atol=2e-5)
    prepared = transformer.prepare(params, decoder, made)
    _, last = transformer.step(prepared, state, rest[:, 2], decoder, mixer=made)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(last[row], whole[row, length + 2], atol=2e-5)


def test_a_shift_is_a_convolution_and_low_rank_is_a_product():
    decoder = TransformerConfig(16, 3, GroupedConfig(16, 2), d_ff=16)
    inner = transformer.make_mixer(decoder.mixer)
    x = jax.random.normal(jax.random.key(0), (2, 5, 16))
    shift = changed("shifted", decoder)
    params = shift.init(jax.random.key(1)) | {"shift": jnp.arange(16.0)}
    moved = np.array(x)
    moved[:, 1:] += np.arange(16.0) * np.array(x)[:, :-1]
    np.testing.assert_allclose(
        shift.apply(params, x), inner.apply(params, jnp.asarray(moved)), rtol=1e-5, atol=1e-5
    )
    low = changed("low_rank", decoder)
    params = low.init(jax.random.key(1))
    whole = {n: params[f"{n}_in"] @ params[f"{n}_out"] for n in ("query", "output")}
    assert all(np.linalg.matrix_rank(np.asarray(matrix)) == 3 for matrix in whole.values())
    np.testing.assert_allclose(low.apply(params, x), inner.apply({**params, **whole}, x), rtol=1e-5)
    many = jnp.std(low.init(jax.random.key(2))["output_out"]) * 3**0.5
    assert float(many) == pytest.approx(6**-0.5, rel=0.25)  # residual projections of three layers


def test_a_kind_that_loses_refutes_that_all_gain():
    """Even where another one's interval reaches lower."""
    accuracies = {"MLA": (0.2, 0.9), "MQA": (0.5, 0.45), "GQA-2": (0.3, 0.4)}
    spread = {"MLA": 0.01, "MQA": 0.001, "GQA-2": 0.2}
    rows = [
        {"step": 0, "arm": f"{kind}, {cache}", "seed": seed, "accuracy": value + change}
        for kind, values in accuracies.items()
        for cache, value in zip((16, 32), values, strict=True)
        for seed, change in enumerate((0.0, spread[kind] * (cache == 32), -0.001))
    ]
    record = Record(Path(), {"config": {"caches": [16, 32]}}, rows)
    found = recall._rise(record)
    assert found.high < 0 and found.value == pytest.approx(-0.05, abs=0.01)
    rows = [row for row in rows if not row["arm"].startswith("MQA")]
    rows += [
        {**row, "arm": row["arm"].replace("MLA", "MQA")} for row in rows if "MLA" in row["arm"]
    ]
    found = recall._rise(Record(Path(), record.data, rows))
    assert found.low < 0 < found.high  # GQA-2 is not certain
