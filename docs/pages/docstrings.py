"""Docstrings as Markdown: they are written for a terminal, and the API reference is a page.

Stars and brackets of formulas are no markup; indented lines and Notation blocks keep their columns;
several arguments described together ("low, high: ...") become one line each.
"""

import re
from collections.abc import Iterator
from typing import Any

import griffe

HEADER = re.compile(r"(Args|Attributes|Returns|Raises|Warns|Yields):$")
TOGETHER = re.compile(r"( +)(\w+(?:, \w+)+): (.*)$")
EMPHASIS = re.compile(r"(?<![\w^*&])\*(\w[^*\n]*?\w|\w)\*(?![\w*])")


class House(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Of modules, classes, functions and attributes."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """A dedented docstring: sections as they are, everything else made safe for Markdown."""
    return "\n".join(_blocks(docstring.splitlines())).rstrip("\n")


def _blocks(lines: list[str]) -> Iterator[str]:
    i = 0
    while i < len(lines):
        line = lines[i]
        end = i + 1
        if line == "Notation" or HEADER.match(line) or line.startswith("    "):
            first = i if line.startswith("    ") else i + 1
            end = max(first, end)
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
                end += 1
            inside = lines[first:end]
            if HEADER.match(line):
                yield line
                yield from (part for entry in _entries(inside) for part in _described(entry))
            else:
                yield from ["Notation:", ""] if line == "Notation" else []
                yield from [
                    "```text",
                    *(text[4:].rstrip() for text in _stripped(inside)),
                    "```",
                    "",
                ]
        elif line.startswith(">>>"):
            while end < len(lines) and lines[end].strip():
                end += 1
            yield from ["```pycon", *lines[i:end], "```"]
        else:
            yield _escaped(line)
        i = end


def _stripped(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def _entries(lines: list[str]) -> Iterator[list[str]]:
    """Lines of a section, an argument with its further lines together."""
    entry: list[str] = []
    for line in lines:
        if entry and not line.startswith("     "):
            yield entry
            entry = []
        entry.append(line)
    if entry:
        yield entry


def _described(entry: list[str]) -> list[str]:
    """An entry of a section, once for every argument that it describes."""
    first, *further = entry
    further = [_escaped(line) for line in further]
    if match := TOGETHER.match(first):
        indent, names, text = match.groups()
        heads = [f"{indent}{name}: {_escaped(text)}" for name in names.split(", ")]
        return [line for head in heads for line in (head, *further)]
    head, colon, rest = first.partition(": ")
    if colon and re.fullmatch(r" +[\w.*]+", head):
        return [f"{head}: {_escaped(rest)}", *further]
    return [_escaped(first), *further]


def _escaped(text: str) -> str:
    """Outside of `code`: emphasis stays, other stars, brackets and angles are themselves."""
    pieces = text.split("`")
    for i in range(0, len(pieces), 2):
        piece = EMPHASIS.sub(r"<em>\1</em>", pieces[i])
        for old, new in (("*", "&#42;"), ("[", "&#91;"), ("]", "&#93;"), ("|", "&#124;")):
            piece = piece.replace(old, new)
        pieces[i] = re.sub(r"<(?!/?em>)", "&lt;", piece)
    return "`".join(pieces)
