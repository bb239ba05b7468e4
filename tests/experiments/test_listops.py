"""ListOps: values against a recursive reader, the law of what is generated, LRA's files, errors."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import listops as reference

from experiments.harness.errors import DataError
from experiments.ssm import listops, listops_generator, listops_grammar, long_range
from experiments.ssm.listops import ListOpsConfig


def words(tokens, length):
    return [listops_grammar.WORDS[number - 1] for number in tokens[:length]]


def expressions():
    digits = st.integers(0, 9).map(lambda digit: [str(digit)])

    def nested(inner):
        operators = st.sampled_from(listops_grammar.WORDS[:4])
        arguments = st.lists(inner, min_size=1, max_size=5)
        return st.builds(
            lambda op, parts: [op, *itertools.chain(*parts), "]"], operators, arguments
        )

    return st.recursive(digits, nested, max_leaves=12)


@given(st.lists(expressions(), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_a_recursive_reader(rows):
    parsed = [listops_grammar.parse(" ".join(row)) for row in rows]
    tokens, lengths = listops_grammar.pack(parsed, max(map(len, parsed)) + 3)
    found = listops_grammar.evaluate(tokens, lengths)
    assert found.tolist() == [reference.value(row) for row in rows]
    assert [words(*row) for row in zip(tokens, lengths, strict=True)] == rows


def test_generated_expressions_parse_and_follow_the_law():
    rng = np.random.default_rng(0)
    tokens, lengths = listops_generator.generate(rng, 3000, 2, 200, depth=3, arguments=4)
    assert lengths.min() >= 2 and lengths.max() <= 200
    assert len({row[:n].tobytes() for row, n in zip(tokens, lengths, strict=True)}) == 3000
    found = listops_grammar.values(tokens, lengths, at_once=1000)
    for row, length, value in list(zip(tokens, lengths, found, strict=True))[::50]:
        assert reference.value(words(row, length)) == value
    arguments, nested = [], []
    for row, length in zip(tokens, lengths, strict=True):
        stack = []
        for word in words(row, length):
            if word == "]":
                count, _ = stack.pop()
                arguments.append(count)
                continue
            if stack:
                stack[-1][0] += 1
                if len(stack) == 1:  # below the outermost operation, where nesting is allowed
                    nested.append(word.startswith("["))
            if word.startswith("["):
                stack.append([0, word])
                assert len(stack) <= 2  # the third level is of digits
    # Short expressions are dropped as duplicates, so that the law is that of longer ones.
    assert np.bincount(arguments)[:2].sum() == 0 and max(arguments) == 4
    assert np.mean(nested) > 0.25


def test_the_law_of_a_single_draw():
    rng = np.random.default_rng(1)
    tokens, lengths = listops_generator._grown(rng, 4000, 400, 2, 10)
    assert (lengths <= 400).all()
    # Depth two: an operation on digits, 2 to 10 of them.
    counts = np.bincount(lengths - 2, minlength=11)[2:11]
    assert counts.sum() == 4000 and np.abs(counts / 4000 - 1 / 9).max() < 0.02
    operators = np.bincount(tokens[:, 0], minlength=5)[1:5]
    assert np.abs(operators / 4000 - 1 / 4).max() < 0.03
    tokens, lengths = listops_generator._grown(rng, 4000, 2000, 3, 2)
    nested = (tokens[:, 1] < listops_grammar.CLOSE).mean()
    assert nested == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[MAX 4 [MIN 2 3 ]", r"expression 2, token \d+: expected \] for every operator"),
        ("4 ]", r"expression 2, token 2: expected the end of the expression, got more"),
        ("] 4", r"expression 2, token 1: expected an operator before \]"),
        ("[MAX ]", r"expression 2, token 2: expected arguments before \]"),
        ("1 2", r"expression 2, token 2: expected the end"),
        ("[MAX 1 ] [MIN 2 ]", r"expression 2, token 4: expected the end"),
    ],
)
def test_expressions_that_do_not_parse_are_named(text, message):
    rows = [listops_grammar.parse("[MAX 1 2 3 ]"), listops_grammar.parse(text)]
    with pytest.raises(ValueError, match=message):
        listops_grammar.evaluate(*listops_grammar.pack(rows, 10))


def test_unknown_words_tokens_and_lengths_are_named():
    for text, word in (("[MAX 1 x ]", "'x'"), ("[SUM 1 2 ]", r"'\[SUM'"), ("[MAX 12 ]", "'12'")):
        with pytest.raises(ValueError, match=f"expected words of .*got {word}"):
            listops_grammar.parse(text)
    with pytest.raises(ValueError, match=r"got '\?'"):
        listops_grammar.parse("\x01 1 ]")  # what the program puts in the place of a word
    with pytest.raises(ValueError, match="expression 1, token 1: expected a known token"):
        listops_grammar.evaluate(np.array([[99]]), np.array([1]))
    with pytest.raises(ValueError, match="expression 2: expected 1 to 3 tokens, got 4"):
        listops_grammar.pack([np.array([6]), np.array([1, 6, 6, 5])], 3)
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="expected lengths that expressions have, got 10 different"):
        listops_generator.generate(rng, 50, 1, 1, depth=1)  # there are ten digits


@pytest.fixture
def folder(tmp_path):
    """A few lines in LRA's format, brackets and all."""
    lines = ["Source\tTarget", "( ( ( [MAX 4 ) 2 ) ] )\t4", "( ( ( ( [SM 7 ) 8 ) 1 ) ] )\t6"]
    for split in ("train", "test"):
        (tmp_path / f"basic_{split}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_files_of_lra_are_read_and_checked(folder):
    tokens, lengths, labels = long_range.listops(str(folder), "train", 8)
    assert lengths.tolist() == [4, 5] and labels.tolist() == [4, 6] and tokens.shape == (2, 8)
    assert words(tokens[1], 5) == ["[SM", "7", "8", "1", "]"]
    train, test = listops.load(ListOpsConfig(str(folder), shortest=1, longest=8))
    np.testing.assert_array_equal(train["x"], tokens)
    np.testing.assert_array_equal(test["label"], labels)
    file = folder / "basic_train.tsv"
    for line, message in (
        ("[MAX 1 2 ]\t3", "line 4: expected the value 2, got 3"),
        ("[MAX 1 2 ]\tx", "line 4: invalid literal"),
        ("[MAX 1 2 ]\t11", r"expected labels from 0 to 9, got 4 to 11"),
        ("[TOP 1 2 ]\t2", r"line 4: expected words of .*got '\[TOP'"),
        ("[MAX 1 2 \t2", r"expression 3, token \d+: expected \] for every operator"),
        (f"[MAX {'1 ' * 9}]\t1", "expression 3: expected 1 to 8 tokens, got 11"),
        ("\t3", "expression 3: expected 1 to 8 tokens, got 0"),
    ):
        file.write_text((folder / "basic_test.tsv").read_text() + line + "\n")
        with pytest.raises(DataError, match=message):
            long_range.listops(str(folder), "train", 8)
    with pytest.raises(DataError, match=r"expected a readable .*basic_val\.tsv"):
        long_range.listops(str(folder), "val", 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shortest": 9, "longest": 8}, "data.shortest, longest: expected 1 <= shortest"),
        ({"arguments": 1}, "data.train, tests, depth, arguments: expected at least 1, 1, 1, 2"),
    ],
)
def test_impossible_expressions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ListOpsConfig(**change)
