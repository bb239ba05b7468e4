"""The conversion experiment: ways to a smaller cache, and the whole run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import transformer
from experiments import catalog, commands
from experiments.attention import conversion
from experiments.attention.language_model import ModelConfig

MODEL = ModelConfig(d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, context=12, rope=False)


def made():
    decoder = MODEL.transformer()
    params = transformer.init(jax.random.key(0), decoder)
    moments = jnp.broadcast_to(jnp.diag(jnp.linspace(0.1, 2.0, 16)), (2, 16, 16))
    return params, decoder, moments


@pytest.mark.slow
def test_every_way_has_a_cache_of_the_rank():
    params, decoder, moments = made()
    found = conversion._ways(params, decoder, moments, 8)
    assert set(found) == {"joint SVD", "weighted SVD", "keys, values apart", "heads averaged"}
    for small, one in found.values():
        assert one.mixer.cache_elements == 8
        logits = transformer.apply(small, jnp.ones((1, 5), int), one)
        assert np.isfinite(np.asarray(logits)).all()
    assert "heads averaged" not in conversion._ways(params, decoder, moments, 6)


def test_keys_and_values_apart_are_their_own_svds():
    params, decoder, moments = made()
    small, one = conversion._ways(params, decoder, moments, 6)["keys, values apart"]
    mixer = params["layers"]["mixer"]
    for layer in range(2):
        near = []
        for name in ("key", "value"):
            u, s, v = np.linalg.svd(np.asarray(mixer[name][layer], np.float64), full_matrices=False)
            near.append((u[:, :3] * s[:3]) @ v[:3])
        expected = np.concatenate(
            [part[:, 4 * (head // 2) : 4 * (head // 2) + 4] for head in range(4) for part in near],
            axis=1,
        )
        cut = small["layers"]["mixer"]
        np.testing.assert_allclose(cut["down"][layer] @ cut["up"][layer], expected, atol=1e-5)
    assert one.mixer.latent_dim == 6


def test_heads_are_averaged():
    params, decoder, moments = made()
    small, one = conversion._ways(params, decoder, moments, 8)["heads averaged"]
    key = params["layers"]["mixer"]["key"]
    np.testing.assert_allclose(
        small["layers"]["mixer"]["key"], 0.5 * (key[..., :4] + key[..., 4:]), rtol=1e-6
    )
    assert one.mixer.kv_heads == 1


OPTIONS = ["--model.d-model", "16", "--model.context", "12", "--training.steps", "4"]
OPTIONS += ["--training.batch-size", "4", "--windows", "6", "--ranks", "8", "4"]
OPTIONS += ["--moment-windows", "8", "--steps-after", "2", "--training.eval-every", "4"]


@pytest.mark.slow
def test_a_model_is_trained_converted_and_made_smaller(tmp_path):
    record = commands.run("attention/conversion", "quick", OPTIONS, tmp_path / "run")
    assert (record.directory / "figure.png").exists()
    rows = {(row["way"], row["elements"]): row for row in record.result["rows"]}
    assert {way for way, _ in rows} >= {"joint SVD", "weighted SVD, trained on"}
    assert {elements for _, elements in rows} == {8, 4}
    claims = {claim.id: claim for claim in catalog.get("attention/conversion").claims}
    assert claims["conversion.exact"].measure(record) <= 1e-12
    assert claims["conversion.cache"].measure(record) == 1.0
    joint, apart = rows["joint SVD", 8]["more"], rows["keys, values apart", 8]["more"]
    assert claims["conversion.joint"].measure(record).value == pytest.approx(apart - joint)
    again = commands.run("attention/conversion", "quick", OPTIONS, tmp_path / "run")
    assert again.result == record.result
    short = dataclasses.replace(conversion.Config(), steps_after=0)
    assert short.steps_after == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ModelConfig()}, "model: expected mha, gqa or mqa without rope"),
        ({"ranks": (8, 16)}, "ranks: expected falling ones from 2 to 63"),
        ({"ranks": (64,)}, "ranks: expected falling ones from 2 to 63"),
        ({"ranks": ()}, "ranks: expected falling ones"),
        ({"windows": 1}, "windows, moment_windows, steps_after: expected at least"),
    ],
)
def test_impossible_conversions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        conversion.Config(**options)


def test_mla_keeps_its_rotary_part():
    with pytest.raises(ValueError, match=r"model.rope: expected true with mla"):
        ModelConfig("mla", rope=False)
