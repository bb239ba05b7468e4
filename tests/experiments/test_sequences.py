"""The experiments of sequence learning: tiny runs, papers' presets at reduced width, errors."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import catalog, commands
from experiments import report as reports
from experiments.harness import recorded, training
from experiments.harness.comparison import Comparison
from experiments.ssm import (
    copying,
    delay,
    documents,
    language_model,
    listops,
    sequential_images,
    speech,
)
from experiments.ssm.documents import DocumentsConfig
from experiments.ssm.models import ModelConfig
from experiments.ssm.speech import SpeechConfig

SHORT = [
    *("--training.steps", "3", "--training.batch_size", "4", "--training.eval_every", "3"),
    *("--training.checkpoint_every", "3", "--model.channels", "4", "--model.layers", "1"),
]
TINY = {
    "delay": ["--length", "24", "--lag", "4", "--sizes", "2", "6", "--tests", "4", *SHORT[:-2]],
    "copying": ["--memorise", "4", "--sizes", "4", "--tests", "4", *SHORT],
    "sequential_images": ["--tests", "20", "--model.size", "4", *SHORT],
    "listops": ["--data.train", "30", "--data.tests", "8", "--data.longest", "24", *SHORT],
    "documents": ["--data.tests", "8", "--data.longest", "32", *SHORT],
    "speech": ["--data.tests", "8", "--data.length", "32", *SHORT, "--model.size", "4"],
    "language_model": [
        *("--context", "16", "--windows", "4", "--contexts", "8", "16", "--model.size", "4"),
        *("--model.heads", "2", *SHORT),
    ],
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", TINY)
def test_a_run_has_rows_table_figure_and_measured_claims(name, tmp_path):
    record = commands.run(f"ssm/{name}", "quick", TINY[name], tmp_path / name)
    rows = [row for row in record.rows if "arm" in row]
    assert rows and record.result["rates_at_an_end"] == []
    for row in rows:
        steps, values = zip(*row["curve"], strict=True)
        assert steps == (0, 3) and values[-1] in row.values()
    assert (record.directory / "figure.png").stat().st_size > 0
    assert (record.directory / "table.md").read_text().startswith("| ")
    measured = [claim.measure(record) for claim in catalog.get(f"ssm/{name}").claims]
    for value in measured:
        assert value is None or np.isfinite(getattr(value, "value", value))
    if name in ("delay", "copying", "listops", "documents", "language_model"):
        assert any(value is not None for value in measured)
    again = commands.run(f"ssm/{name}", "quick", TINY[name], tmp_path / name)
    assert again.rows == record.rows


@pytest.mark.slow
def test_other_mixers_run_beside(tmp_path):
    against = ("s5", "attention")
    options = ["--model.mixer", "dss", "--against", *against, "--model.heads", "2"]
    record = commands.run("ssm/copying", "quick", [*TINY["copying"], *options], tmp_path / "run")
    assert {row["mixer"] for row in record.rows} == {"dss", *against}


@pytest.mark.slow
def test_the_report_takes_the_largest_run_that_covers_a_claim(tmp_path, capsys):
    few = [
        *TINY["delay"],
        "--against",
        "rtf",
        "--comparison.seeds",
        "1",
        "--comparison.rates",
        "0.01",
    ]
    commands.run("ssm/delay", "cpu", [*few, "--sizes", "2"], tmp_path / "large")
    commands.run("ssm/delay", "quick", [*few, "--sizes", "2", "6"], tmp_path / "small")
    capsys.readouterr()
    rows = {row["id"]: row for row in reports.rows(recorded.find(tmp_path))}
    assert (
        rows["delay.exact"]["scale"] == "quick, changed"
    )  # the larger run has no size of the delay
    assert rows["delay.exact"]["command"].endswith("--preset quick")
    assert rows["delay.below"]["scale"] == "cpu, changed" and rows["delay.below"]["ours"] is None
    assert rows["copying.large"]["scale"] is None
    published = Path(__file__).parents[2] / "results" / "ssm" / "delay"
    shutil.copytree(published, Path("results", "ssm", "delay"))
    mine = Path("runs", "other")
    commands.run("ssm/delay", "quick", [*few, "--sizes", "2", "6"], mine)
    rows = {row["id"]: row for row in reports.rows(reports.finished(Path("runs")))}
    assert rows["delay.exact"]["run"] == "results/ssm/delay/cpu"  # published, and larger
    shutil.copytree(published, Path("runs", "same"))
    rows = {row["id"]: row for row in reports.rows(reports.finished(Path("runs")))}
    assert rows["delay.exact"]["run"] == "runs/same/cpu"  # one's own, of that size
    assert rows["delay.exact"]["scale"] == "cpu"


def test_copying_asks_for_what_was_shown():
    config = dataclasses.replace(copying.Config(), memorise=5, noise=2, tokens=6)
    batch = copying.sequences(config, 40, 1, 2)
    assert batch["x"].shape == (40, 12) and batch["y"].shape == (40, 5)
    np.testing.assert_array_equal(batch["x"][:, :5], batch["y"])
    assert set(batch["y"].ravel()) == {1, 2, 3, 4}
    assert (batch["x"][:, 5:7] == 0).all() and (batch["x"][:, 7:] == 5).all()
    np.testing.assert_array_equal(copying.sequences(config, 40, 1, 2)["x"], batch["x"])
    assert (copying.sequences(config, 40, 1, 3)["x"] != batch["x"]).any()
    logits = np.full((40, 12, 6), -9.0, np.float32)
    np.put_along_axis(logits[:, 7:], batch["y"][..., None], 9.0, 2)
    logits[0, 7] = 0.0
    logits[0, 7, 0] = 1.0
    found = copying.score(jnp.asarray(logits), batch)
    assert found["error"][0] == pytest.approx(0.2) and float(found["error"][1:].max()) == 0.0
    assert float(found["loss"][1:].max()) < 1e-5


def test_delay_is_solved_by_the_filter_that_is_a_delay(x64):
    """With a = 0 and one b: the error of the model with those parameters is that of rounding."""
    config = delay.Config()
    arm = delay.all_arms(config)[1]
    made = delay.network(arm, config.length)
    params = jax.tree.map(jnp.zeros_like, made.init(jax.random.key(0)))
    params["into"], params["out"] = jnp.ones(4), jnp.ones(4) / 4
    numerator = params["layer"]["numerator"]
    params["layer"]["numerator"] = numerator.at[:, config.lag - 1].set(1.0)
    held_out = delay.make_task(config).held_out
    loss = delay.score(made.apply(params, held_out), held_out)["loss"]
    assert float(jnp.sqrt(loss.max())) < 1e-6
    x, y = held_out["x"], held_out["y"]
    np.testing.assert_array_equal(y[:, config.lag :], x[:, : -config.lag])
    assert float(x.std(1).mean()) == pytest.approx(0.5, rel=0.05)


OTHERS = [
    (module, preset)
    for module in (sequential_images, documents)
    for preset in module.PRESETS
    if preset.startswith("paper_")
]
SMALL = {"channels": 4, "layers": 2, "size": 4, "s5_size": 4, "mamba_size": 2}
REDUCED = {
    delay: {"length": 16, "lag": 4, "sizes": (2, 4), "tests": 2},
    copying: {"memorise": 4, "tokens": 8, "sizes": (2, 4), "tests": 2},
    sequential_images: {},
    listops: {"data": listops.ListOpsConfig(train=20, tests=4, longest=32)},
    documents: {},
    speech: {"data": SpeechConfig(length=32)},
    language_model: {"context": 16, "windows": 2, "contexts": (8,)},
}


@pytest.mark.sample(1)
@pytest.mark.parametrize(("module", "preset"), OTHERS)
def test_further_paper_presets_lower_for_cuda_and_tpu(module, preset):
    for program in module.programs(module.PRESETS[preset]).values():
        for platform in ("cuda", "tpu"):
            assert "module" in program.lower((platform,)).as_text()[:200]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("module", "preset"), [*((module, "paper") for module in REDUCED), *OTHERS]
)
def test_paper_presets_run_two_steps_at_reduced_width(module, preset):
    """The step of training with everything else as the preset has it."""
    paper = module.PRESETS[preset]
    model = dataclasses.replace(paper.model, **SMALL)
    if model.denominators is None or model.denominators > 2:
        model = dataclasses.replace(model, denominators=None)
    changes = dict(REDUCED[module])
    if module is sequential_images:
        changes["data"] = dataclasses.replace(paper.data, size=4)
    if module is documents:
        changes["data"] = dataclasses.replace(paper.data, longest=16)
    if module is language_model:
        model = dataclasses.replace(model, channels=24, heads=2, layers=2)
        changes["data"] = dataclasses.replace(paper.data, path=None, vocabulary=300)
    settings = dataclasses.replace(paper.training, steps=2, batch_size=8)
    config = dataclasses.replace(paper, model=model, training=settings, **changes)
    program = list(module.programs(config).values())[-1]
    state, batch = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), program.arguments)
    step = jax.jit(program.function)
    for _ in range(2):
        state, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"]) and int(metrics["bad_leaf"]) == -1
    assert isinstance(state, training.TrainState) and int(state.step) == 3


@pytest.mark.slow
def test_the_papers_sizes():
    """Layers, channels, states and steps of LRA's rows of arXiv 2405.06147, tables 8 and 9."""
    rows = {
        (listops, "paper"): (6, 256, 4, 32, 0.002, 0.07, 1999),
        (documents, "paper"): (6, 256, 4, 16, 0.005, 0.05, 4096),
        (documents, "paper_retrieval"): (6, 256, 4, 64, 0.002, 0.0, 4000),
        (sequential_images, "paper_lra_image"): (6, 512, 64, 50, 0.006, 0.05, 1024),
        (sequential_images, "paper_pathfinder"): (6, 256, 64, 64, 0.002, 0.05, 1024),
        (sequential_images, "paper_pathx"): (6, 256, 2048, 16, 0.001, 0.05, 16_384),
    }
    for (module, preset), expected in rows.items():
        config = module.PRESETS[preset]
        model, settings = config.model, config.training
        length = (
            sequential_images.shape(config)[0]
            if module is sequential_images
            else config.data.longest
        )
        found = (model.layers, model.channels, model.size, settings.batch_size)
        assert (*found, config.comparison.rates[0], settings.weight_decay, length) == expected
        assert model.norm == "batch" and model.bidirectional and model.mixer == "rtf"
    wide = language_model.PRESETS["paper"]
    made = language_model.all_arms(wide)
    sizes = [language_model.arms.parameters(arm) for arm in made]
    assert max(sizes) / min(sizes) < 1.001 and 1.1e8 < sizes[0] < 1.4e8


def test_a_state_of_one_size_is_as_quick_behind_any_context():
    config = dataclasses.replace(language_model.Config(), context=20)
    attention, gated = language_model.all_arms(config)
    assert (attention.name, gated.name) == ("attention", "gated_rtf")
    assert language_model.arms.cache_elements(gated) == 0
    assert language_model.arms.cache_elements(attention) == 2 * config.model.channels
    assert language_model.tokens_per_second(config, gated, 30, 0.01) > 0
    assert language_model.tokens_per_second(config, attention, 8, 0.01) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: delay.Config(lag=128), "lag: expected 1 to 127, got 128"),
        (lambda: delay.Config(sizes=(128,)), "sizes: expected some below 128"),
        (lambda: delay.Config(band=2.0), "band, tests: expected 2/length <= band <= 1"),
        (lambda: copying.Config(tokens=3), "memorise, noise, tokens, tests: expected at least"),
        (lambda: copying.Config(sizes=()), "sizes: expected some below 16, got"),
        (lambda: sequential_images.Config(classes=1), "classes, tests: expected at least 2 and 1"),
        (lambda: documents.Config(data=DocumentsConfig(path="x")), "data.path: expected none"),
        (
            lambda: documents.Config(task="retrieval", data=DocumentsConfig("imdb_reviews")),
            "data.path: expected a folder of pairs, got 'imdb_reviews'",
        ),
        (lambda: SpeechConfig(classes=4), "data.classes: expected 5 of tones, got 4"),
        (lambda: SpeechConfig(length=4), "data.length, classes, noise, tests: expected at least 8"),
        (lambda: DocumentsConfig(classes=1), "data.longest, classes, tests: expected at least 2"),
        (
            lambda: language_model.Config(comparison=Comparison(1)),
            "comparison.seeds: expected at least 2, got 1",
        ),
        (
            lambda: language_model.Config(model=ModelConfig(bidirectional=True)),
            "model.bidirectional: expected False",
        ),
        (lambda: language_model.Config(contexts=()), "context, windows, contexts: expected"),
        (
            lambda: language_model.Config(model=ModelConfig(norm="batch")),
            "model.norm: has no meaning here, expected it to be left alone, got 'batch'",
        ),
        (lambda: delay.Config(model=ModelConfig(layers=3)), "model.layers: has no meaning here"),
        (
            lambda: sequential_images.Config(model=ModelConfig(size=64)),
            "length: expected more than the size of the state, 64, got 64",
        ),
    ],
)
def test_impossible_configurations_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
