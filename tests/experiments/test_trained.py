"""Weights that runs keep, and the networks that are opened from them and from checkpoints."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import TINY_LM

from experiments import catalog, commands, trained
from experiments.attention import language_model, next_token
from experiments.diffusion import distill
from experiments.harness import checkpoint, datasets, recorded, training, weights
from experiments.harness import config as configs
from experiments.harness.errors import ExperimentError, Interrupted
from experiments.ssm import learning, listops

LISTOPS = [
    *("--data.train", "30", "--data.tests", "8", "--data.longest", "24", "--against", "s4d"),
    *("--training.steps", "3", "--training.batch_size", "4", "--training.eval_every", "3"),
    *("--model.channels", "4", "--model.layers", "1"),
]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """The folder of a tiny language model."""
    from experiments.__main__ import main

    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["run", *TINY_LM, "--workdir", str(folder)]) == 0
    return folder


def test_a_finished_run_says_that_its_weights_are_gone(tmp_path, capsys):
    from experiments.__main__ import main

    command = ["run", *TINY_LM, "--workdir", str(tmp_path / "run")]
    assert main(command) == 0 and main(command) == 0
    assert "already complete; remove" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run" / "weights")
    assert main(command) == 0
    assert "complete, without its weights; remove it to run again" in capsys.readouterr().err


def test_a_language_model_is_the_one_that_was_measured(decoder, capsys):
    from experiments.__main__ import main

    found = trained.load(decoder)
    assert isinstance(found.config, language_model.Config) and found.name == "decoder"
    record, text = recorded.load(decoder), datasets.load_text(found.config.data)
    problem = next_token.make_problem(
        found.settings,
        found.config.model.context,
        found.config.training,
        found.config.windows,
        text,
    )
    bits = problem.evaluate(found.params)["validation_bits_per_byte"]
    assert bits == pytest.approx(record.result["validation_bits_per_byte"], rel=1e-6)
    assert found.apply(found.params, jnp.zeros((1, 4), jnp.int32)).shape == (1, 4, 256)
    assert main(["generate", "--checkpoint", str(decoder), "--score", "a line of text"]) == 0
    said = capsys.readouterr().out
    tokens = np.frombuffer(b"a line of text", np.uint8)[None].astype(np.int32)
    tokens = jnp.asarray(tokens)
    logs = jax.nn.log_softmax(found.apply(found.params, tokens))[0, :-1]
    total = jnp.take_along_axis(logs, tokens[0, 1:, None], 1).sum().item()
    assert "tokens: 13" in said
    assert float(said.split("log likelihood: ")[1].split()[0]) == pytest.approx(total, rel=1e-4)
    prompt = ["--prompt", "Th", "--max-new-tokens", "3"]
    assert main(["generate", "--checkpoint", str(decoder), *prompt]) == 0
    assert capsys.readouterr().out.startswith("Th")


def test_what_cannot_be_opened_is_refused_by_name(decoder, tmp_path):
    path = decoder / "weights" / "decoder.safetensors"
    kept, record = path.read_bytes(), (decoder / "run.json").read_text()
    with pytest.raises(ExperimentError, match="expected one of decoder, got 'teacher'"):
        trained.load(decoder, "teacher")
    with pytest.raises(ExperimentError, match="expected a run"):
        trained.load(tmp_path)
    try:
        path.write_bytes(kept[:-9])
        with pytest.raises(ExperimentError, match="cannot be read"):
            trained.load(decoder)
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(ExperimentError, match="has been changed since it was"):
            trained.load(decoder)
        path.unlink()
        (decoder / "checkpoints").rename(tmp_path / "kept")
        with pytest.raises(ExperimentError, match="found none; a training writes them"):
            trained.load(decoder)
        (tmp_path / "kept").rename(decoder / "checkpoints")
        network = trained.catalog.get("attention/language_model").module.trained_networks(
            language_model.PRESETS["quick"]
        )["decoder"]
        weights.save(decoder, "decoder", {"w": np.zeros(3)})
        with pytest.raises(ExperimentError, match=r"no such array"):
            weights.load(decoder, "decoder", network)
        other = json.loads(record)
        other["config"]["windows"] += 1
        (decoder / "run.json").write_text(json.dumps(other))
        with pytest.raises(ExperimentError, match="configuration of this version"):
            trained.load(decoder)
        other["experiment"] = "ssm/basis"
        (decoder / "run.json").write_text(json.dumps(other))
        with pytest.raises(ExperimentError, match=r"ssm/basis keeps no networks here$"):
            trained.load(decoder)
    finally:
        path.write_bytes(kept)
        (decoder / "run.json").write_text(record)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_training_is_opened_before_it_ends(tmp_path, capsys, monkeypatch, averaged):
    """At its newest sound checkpoint, with the averages that it would be judged by."""
    from experiments.__main__ import main

    folder = tmp_path / "run"
    command = ["run", *TINY_LM, "--workdir", str(folder)]
    command += ["--training.ema", "0.5"] * averaged
    states, save = {}, checkpoint.Checkpoints.save

    def stopped(self, step, state):
        states[step] = jax.tree.map(np.asarray, training.averaged(state))
        save(self, step, state)
        if step == 8:
            raise Interrupted("stopped")

    monkeypatch.setattr(checkpoint.Checkpoints, "save", stopped)
    assert main(command) == 75
    record, sizes = (folder / "run.json").read_text(), _sizes(folder)
    found = trained.load(folder)
    assert "weights of step 8, at its newest checkpoint" in capsys.readouterr().err
    _equal(found.params, states[8])
    assert main(["generate", "--checkpoint", str(folder), "--prompt", "T"]) == 0
    with next((folder / "checkpoints" / "8").rglob("d/*")).open("r+b") as file:
        file.write(b"other")
    _equal(trained.load(folder).params, states[4])
    assert "not taken" in capsys.readouterr().err
    needed = folder / "checkpoints" / "4" / "_METADATA"
    kept = needed.rename(tmp_path / "kept")
    with pytest.raises(ExperimentError, match=r"found none: step 8 is damaged, .*; step 4 is"):
        trained.load(folder)
    kept.rename(needed)
    assert (folder / "run.json").read_text() == record and _sizes(folder) == sizes
    other = json.loads(record)
    other["config"]["new_bytes"] += 1
    config = configs.from_dict(language_model.Config, other["config"])
    other["config_hash"] = configs.digest(config)
    (folder / "run.json").write_text(json.dumps(other))
    with pytest.raises(ExperimentError, match=r"4: expected configuration"):
        trained.load(folder)


def _sizes(folder):
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_an_arm_of_a_comparison_is_its_first_seed(tmp_path):
    record = commands.run("ssm/listops", "quick", LISTOPS, tmp_path / "run")
    with pytest.raises(ExperimentError, match="expected the name of one of rtf, s4d"):
        trained.load(tmp_path / "run")
    found = trained.load(tmp_path / "run", "s4d")
    _, test = listops.load(found.config.data)
    score = jax.jit(lambda p, batch: learning.classified(found.apply(p, batch), batch))
    measured = learning.evaluate(found.params, score, test, 8)
    row = next(r for r in record.rows if r.get("arm") == "s4d" and r["seed"] == 0)
    for name, value in measured.items():
        assert value == pytest.approx(row[name], rel=1e-5), name


SOURCES = Path(catalog.__file__).parent
KEEPING = [
    name
    for name in catalog.names()
    if "def trained_networks" in (SOURCES / f"{name}.py").read_text()
]


def test_weights_are_read_in_the_precision_in_which_they_were_written(tmp_path, precision):
    network = weights.Network(lambda key: {"w": jnp.zeros(3)}, lambda *_: None)
    weights.save(tmp_path, "one", {"w": np.array([1.0, 2.0, 3.0], np.float32)})
    again = weights.load(tmp_path, "one", network)["w"]
    assert again.dtype == np.float32 and again.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ExperimentError, match=r"expected float\d\d\[4\], got float32\[3\]"):
        weights.load(tmp_path, "one", weights.Network(lambda key: {"w": jnp.zeros(4)}, print))


@pytest.mark.parametrize("name", KEEPING)
def test_every_network_that_a_run_keeps_can_be_made(name, tmp_path):
    experiment = catalog.get(name)
    found = experiment.module.trained_networks(experiment.preset("quick"))
    assert found
    for title, network in list(found.items())[:1]:
        shapes = jax.eval_shape(network.init, jax.random.key(0))
        made = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes)
        weights.save(tmp_path, title, made)
        again = weights.load(tmp_path, title, network)
        assert jax.tree.structure(again) == jax.tree.structure(made)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(made), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_generator_makes_images():
    network = distill.trained_networks(distill.PRESETS["quick"])["generator"]
    params = network.init(jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    assert network.apply(params, z).shape == z.shape


def test_an_experiment_of_ones_own_that_trains(cli):
    """The file that `new --training` writes: run, estimated, opened, measured, judged."""
    assert cli("new", "own/forecast", "--training")[0] == 0
    small = ("--training.steps", "30", "--training.batch_size", "4", "--length", "16")
    code, out, err = cli("estimate", "own/forecast.py")
    assert code == 0 and "training step" in out, err
    code, out, err = cli("run", "own/forecast.py", *small, "--training.eval_every", "10")
    assert code == 0 and "error" in out, err
    (folder,) = Path("runs/own/forecast").iterdir()
    found = trained.load(folder, file="own/forecast.py")
    module, record = catalog.get("own/forecast.py").module, recorded.load(folder)
    held_out = module.batch(found.config, module.HELD_OUT)
    error = np.mean((found.apply(found.params, held_out["x"]) - held_out["y"]) ** 2)
    np.testing.assert_allclose(record.result["error"], error, rtol=1e-5)
    assert sum("error" in row for row in record.rows) == 4 and (folder / "figure.png").exists()
    assert "forecast.learns" in cli("report", "own/forecast.py")[1]
