"""Text continued and scored on the command line, with a golden checkpoint."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import GroupedConfig, TransformerConfig, generate, load_pretrained, transformer
from attention.checkpoints import Model
from experiments import __main__ as cli
from experiments import writing
from experiments.harness.errors import DataError, UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
LLAMA = GOLDEN / "llama"


def command(capsys, *arguments):
    status = cli.main(["generate", *map(str, arguments)])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_a_prompt_is_continued_as_it_comes(capsys):
    status, out, err = command(
        capsys, "--checkpoint", LLAMA, "--prompt", "the man", "--max-new-tokens", 20
    )
    checkpoint = writing.Checkpoint(LLAMA)
    model, prompt = checkpoint.model, checkpoint.encode("the man")
    tokens = np.asarray(generate(model.params, model.config, np.array([prompt]), 20))[0]
    ends = np.flatnonzero(tokens == 2)
    tokens = tokens[: ends[0]] if len(ends) else tokens
    assert (status, out) == (0, "the man" + checkpoint.decode(tokens) + "\n")
    assert "tokens/s" in err and prompt[0] == 1  # a text begins with <s>


def test_prompts_are_continued_together_as_alone(capsys):
    given = ("--checkpoint", GOLDEN / "deepseek_v2_lite", "--max-new-tokens", 8)
    _, both, _ = command(capsys, *given, "--prompt", "the man", "--prompt", "a")
    alone = [command(capsys, *given, "--prompt", text)[1] for text in ("the man", "a")]
    assert both == "".join(f"{text}\n" for text in alone)


def test_samples_follow_their_seed(capsys):
    given = ("--checkpoint", LLAMA, "--prompt", "so", "--temperature", 1, "--top-k", 20)
    given = (*given, "--top-p", 0.95, "--min-p", 0.01, "--max-new-tokens", 16, "--chunk", 8)
    texts = [command(capsys, *given, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_characters_of_two_tokens_are_shown_whole(capsys, monkeypatch):
    """The first byte of a character waits for the second."""
    parts = [np.array([43]), np.array([44]), np.array([3])]
    monkeypatch.setattr(writing.generation, "stream", lambda *_, **__: iter(parts))
    shown = []
    monkeypatch.setattr("builtins.print", lambda *text, **_: shown.append("".join(text)))
    checkpoint = writing.Checkpoint(LLAMA)
    writing.continue_texts(checkpoint, ["a"], writing.Options(3))
    assert "".join(shown[1:]).startswith("aéa") and "\ufffd" not in "".join(shown)


def test_a_text_is_scored_behind_a_prompt(capsys):
    _, out, _ = command(capsys, "--checkpoint", LLAMA, "--score", "man.", "--prompt", "the ")
    model = load_pretrained(LLAMA)
    tokens = jnp.array([writing.Checkpoint(LLAMA).encode("the man.")])
    logits = np.asarray(transformer.apply(model.params, tokens, model.config), np.float64)[0]
    log = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    expected = sum(log[place - 1, tokens[0, place]] for place in range(5, 9))
    lines = dict(line.split(": ") for line in out.splitlines())
    assert lines["tokens"] == "4"
    assert float(lines["log likelihood"]) == pytest.approx(expected, rel=1e-4)
    assert float(lines["perplexity"]) == pytest.approx(np.exp(-expected / 4), rel=1e-4)
    _, whole, _ = command(capsys, "--checkpoint", LLAMA, "--score", "the man.")
    assert whole.startswith("tokens: 8")


def test_double_precision_reaches_the_score(capsys):
    wide = jax.config.values["jax_enable_x64"]
    try:
        given = ("--checkpoint", LLAMA, "--dtype", "float64")
        status, out, err = command(capsys, *given, "--score", "the man.")
        assert command(capsys, *given, "--prompt", "the man")[0] == status == 0, err
        model = load_pretrained(LLAMA, dtype=jnp.float64)
        tokens = jnp.array([writing.Checkpoint(LLAMA).encode("the man.")])
        logits = transformer.apply(model.params, tokens, model.config)
        assert logits.dtype == jnp.float64
    finally:
        jax.config.update("jax_enable_x64", wide)
    logits = np.asarray(logits)[0, :-1]
    log = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    expected = log[np.arange(len(log)), np.asarray(tokens)[0, 1:]].sum()
    found = float(dict(line.split(": ") for line in out.splitlines())["log likelihood"])
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--top-p", "2"], "--top-p: expected a share in (0, 1], got 2.0"),
        (["--prompt", "a", "--max-new-tokens", "0"], "--max-new-tokens: expected a whole number"),
        (["--prompt", "a", "--max-new-tokens", "600"], "expected at most 512 tokens"),
        (["--prompt", "a", "--dtype", "int8"], "--dtype: expected one of"),
        (["--prompt", "a", "--seed", "99999999999999999999"], "--seed: expected a number from 0"),
        (["--score", "a" * 600], "--score: expected at most 512 tokens"),
        (["--score", "", "--prompt", "a"], "--score: expected a text of at least one token"),
        ([], "generate: expected --prompt or --score"),
        (["--score", "a", "--prompt", "a", "--prompt", "b"], "--score: expected one --prompt"),
    ],
)
def test_bad_requests_are_one_line(arguments, message, capsys):
    status, _, err = command(capsys, "--checkpoint", LLAMA, *arguments)
    assert status == 2 and message in err.splitlines()[-1]


def spoiled(folder, name, change, source=LLAMA):
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    found = json.loads((source / name).read_text())
    change(found)
    (folder / name).write_text(json.dumps(found))
    return folder


def test_spaces_in_front_of_a_continuation_stay(tmp_path, monkeypatch, capsys):
    """Of tokenizers whose decoder strips the first space of what it is given."""

    def strip(found):
        found["decoder"]["decoders"].append(
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        )

    checkpoint = writing.Checkpoint(spoiled(tmp_path, "tokenizer.json", strip))
    space, letter = checkpoint.encode(" a")[-2:]
    assert checkpoint.decode([space, letter]) == "a"
    stream = lambda *_, **__: iter([np.array([space]), np.array([letter])])  # noqa: E731
    monkeypatch.setattr(writing.generation, "stream", stream)
    assert writing.continue_texts(checkpoint, ["b"], writing.Options(2)) == [" a"]
    assert capsys.readouterr().out == "b a\n"


def test_scores_count_the_bytes_that_are_scored(tmp_path, capsys):
    """Without a token that begins texts the first letter is not scored."""

    def plain(found):
        found["post_processor"] = None

    checkpoint = writing.Checkpoint(spoiled(tmp_path, "tokenizer.json", plain))
    found = writing.score_text(checkpoint, "man")
    assert found["tokens"] == 2
    expected = -found["log_likelihood"] / np.log(2.0) / 2
    assert found["bits_per_byte"] == pytest.approx(expected)
    capsys.readouterr()


def test_bytes_of_a_cut_character_are_counted_one_by_one(capsys):
    class Checkpoint(writing.Checkpoint):
        def __init__(self):
            config = TransformerConfig(256, 1, GroupedConfig(8, 2))
            params = transformer.init(jax.random.key(0), config)
            self.model = Model(config, params, settings={})
            self.tokenizer = writing.Bytes()

    found = writing.score_text(Checkpoint(), "\u4e2d\u6587")
    assert found["tokens"] == 5
    assert found["bits_per_byte"] == pytest.approx(found["nats_per_token"] / np.log(2.0))
    capsys.readouterr()


def test_ends_that_cannot_come_are_left_out(tmp_path):
    def far(found):
        found["eos_token_id"] = [999, 2]

    assert writing.Checkpoint(spoiled(tmp_path, "generation_config.json", far)).stop == (2,)

    def text(found):
        found["eos_token_id"] = "x"

    spoiled(tmp_path, "generation_config.json", text)
    with pytest.raises(DataError, match="eos_token_id: expected tokens, got 'x'"):
        writing.Checkpoint(tmp_path)


def test_bad_directories_are_one_line(capsys, tmp_path):
    status, _, err = command(capsys, "--checkpoint", tmp_path / "no", "--prompt", "a")
    assert status == 1 and "--checkpoint: expected a directory" in err
    status, _, err = command(capsys, "--checkpoint", GOLDEN / "llama_yarn", "--prompt", "a")
    assert status == 1 and "expected tokenizer.json, found none" in err
    for path in LLAMA.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    status, _, err = command(capsys, "--checkpoint", tmp_path, "--prompt", "a")
    assert status == 1 and "tokenizer.json:" in err


def test_texts_without_tokens_and_strange_tokens_are_refused(tmp_path):
    for path in LLAMA.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = json.loads((LLAMA / "tokenizer.json").read_text())
    found["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(found))
    checkpoint = writing.Checkpoint(tmp_path)
    with pytest.raises(UsageError, match="--prompt: expected text of at least one token"):
        checkpoint.encode("")
    with pytest.raises(UsageError, match="--score: expected a text of at least one token behind"):
        writing.score_text(checkpoint, "a")
    found["model"]["vocab"]["a"] = 99
    (tmp_path / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"tokenizer.json: expected tokens below 48, got 99"):
        writing.Checkpoint(tmp_path).encode("a")
