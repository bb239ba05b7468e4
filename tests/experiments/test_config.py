"""Configurations: JSON round trip, hashes, differences, command-line overrides."""

import dataclasses
import re

import pytest

from experiments import catalog
from experiments.attention import language_model
from experiments.harness import config as configs
from experiments.harness.errors import UsageError
from experiments.harness.training import TrainingConfig

ALL = [(name, preset) for name in catalog.names() for preset in catalog.PRESETS]


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_presets_survive_json_and_keep_their_hash(name, preset):
    config = catalog.get(name).preset(preset)
    again = configs.from_dict(type(config), configs.to_dict(config))
    assert again == config
    assert configs.digest(again) == configs.digest(config)


@pytest.mark.parametrize("name", catalog.names())
def test_every_option_is_explained(name):
    parts = [catalog.get(name).preset("quick")]
    for config in parts:
        entries = re.findall(r"^ +([\w, ]+): ", type(config).__doc__ or "", re.MULTILINE)
        known = {field for entry in entries for field in entry.split(", ")}
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        parts += [value for value in values.values() if dataclasses.is_dataclass(value)]
        plain = {name for name, value in values.items() if not dataclasses.is_dataclass(value)}
        assert plain <= known, type(config)


def test_fields_that_share_an_entry_are_both_helped(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        configs.parse(catalog.get("diffusion/train").preset("quick"), ["--help"])
    said = re.sub(r"[^\w-]+", " ", capsys.readouterr().out)
    for flag in ("method ancestral ddim euler heun dpmpp_2m", "steps INT"):
        assert f"--{flag} sampler and its number of steps" in said


def test_hash_and_difference_see_every_field():
    config = language_model.PRESETS["quick"]
    other = configs.parse(config, ["--training.seed", "1", "--model.mixer", "mqa"])
    assert configs.digest(other) != configs.digest(config)
    lines = configs.difference(configs.to_dict(config), configs.to_dict(other))
    assert lines == ["model.mixer: gqa -> mqa", "training.seed: 0 -> 1"]


def test_overrides_take_hyphens_equals_signs_none_and_flags():
    config = language_model.PRESETS["quick"]
    arguments = ["--model.d-model=48", "--training.clip", "None", "--model.no-tie-embeddings"]
    changed = configs.parse(config, arguments)
    assert changed.model.d_model == 48
    assert changed.training.clip is None
    assert changed.model.tie_embeddings is False
    for switch in (["--model.tie_embeddings", "False"], ["--model.tie-embeddings=false"]):
        assert configs.parse(config, switch) == configs.parse(config, arguments[-1:])
    again = configs.parse(changed, ["--model.tie_embeddings=true", "--model.d_model", "96"])
    assert again.model.tie_embeddings is True and again.model.d_model == 96


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.d_modle", "8"], "no such field; nearest: --model.d_model"),
        (["--steps", "8"], "--steps: no such field; nearest: --training.steps"),
        (["--zzz", "8"], "--zzz: no such field (all: --help)"),
        (["--training.steps", "many"], "--training.steps: expected a whole number, got 'many'"),
        (["--training.learning_rate", "x"], "learning-rate: expected a number, got 'x'"),
        (["--training.weight_decay", "nan"], "weight_decay: expected >= 0, got nan"),
        (["--training.learning_rate", "inf"], "learning_rate: expected a finite number, got inf"),
        (["--temperature", "nan"], "prompt, temperature: expected some text and a number >= 0"),
        (["--training.steps"], "training.steps"),
        (["--model.mixer", "rnn"], "invalid choice 'rnn' for argument '--model.mixer'"),
        (["--training.steps", "0"], "training.steps: expected at least 1, got 0"),
        (["--training.steps", "-5"], "training.steps: expected at least 1, got -5"),
        (["--model.n_heads", "5"], "n_heads"),
        (["--model.n_kv_heads", "4"], "n_kv_heads: expected a divisor of n_heads = 6, got 4"),
        (["--training.learning_rate", "-1"], "learning_rate"),
        (["--training.accumulate", "3"], "accumulate: expected a divisor of batch_size"),
        (["--training.ema", "1.0"], "training.ema: expected in [0, 1), got 1.0"),
        (["--data.validation", "2"], "validation"),
        (["stray"], "stray"),
    ],
)
def test_bad_overrides_are_one_line_that_names_the_field(arguments, words):
    with pytest.raises(UsageError) as caught:
        configs.parse(language_model.PRESETS["quick"], arguments)
    message = str(caught.value)
    assert words.lower() in message.lower()
    assert "\n" not in message and re.fullmatch(r"[\x20-\x7e]+", message)


def test_from_dict_refuses_wrong_types():
    values = configs.to_dict(TrainingConfig())
    with pytest.raises(UsageError, match="steps"):
        configs.from_dict(TrainingConfig, {**values, "steps": "many"})
