"""Typed frozen configurations: command-line overrides, JSON, hashes, differences."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import tyro

from experiments.harness.errors import UsageError, nearest

# An entry of a docstring for several fields: "width, depth: ..." with the lines that follow.
SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 .*)*)", re.MULTILINE)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain JSON types.

    Raises:
        UsageError: it is no dataclass of such.
    """
    try:
        return json.loads(json.dumps(dataclasses.asdict(config)))
    except TypeError as error:
        raise UsageError(f"config: expected a dataclass of plain types, {error}") from None


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `to_dict`, with types checked.

    Raises:
        UsageError: a field is missing, unknown or of the wrong type.
    """
    try:
        config = msgspec.convert(values, kind, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"config: {error}") from error
    unknown = sorted({*flatten(values)} - {*flatten(to_dict(config))})
    if unknown:
        raise UsageError(f"config: unknown field {unknown[0]}")
    return config


def digest(config: Any) -> str:
    """A short hash of the configuration."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines "field: old -> new" for the fields in which two configurations differ."""
    old, new = flatten(old), flatten(new)
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, "absent") != new.get(name, "absent")
    ]


def seed(config: Any) -> int | None:
    """The field of that name: of the training, or the first other one."""
    fields = flatten(to_dict(config))
    named = [value for name, value in fields.items() if name.rpartition(".")[2] == "seed"]
    return fields.get("training.seed", named[0] if named else None)


def _documented(config: Any) -> None:
    """Give each field an entry of its own: tyro does not read those for several."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    plain = {name for name, value in values.items() if not dataclasses.is_dataclass(value)}

    def entries(found: re.Match[str]) -> str:
        names = [name for name in found[2].split(", ") if name in plain]
        return "\n".join(f"{found[1]}{name}: {found[3]}" for name in names)

    kind: Any = type(config)
    kind.__doc__ = SHARED.sub(entries, kind.__doc__ or "")
    for value in values.values():
        if dataclasses.is_dataclass(value):
            _documented(value)


def parse(default: Any, arguments: Sequence[str], command: str = "run NAME") -> Any:
    """Apply command-line overrides such as `--model.d_model 64` to a configuration.

    Args:
        command: as its help names it.

    Raises:
        UsageError: unknown field (with the nearest name) or impossible value.
    """
    given = _plain(arguments, flatten(dataclasses.asdict(default)))
    printed = io.StringIO()
    if "--help" in arguments:
        _documented(default)
    try:
        with contextlib.redirect_stderr(printed):
            made = tyro.cli(type(default), default=default, args=given, prog=command)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except SystemExit as error:
        if error.code == 0:  # --help
            raise
        raise UsageError(_one_line(printed.getvalue())) from None
    _check_finite(made)
    return made


def _check_finite(config: Any) -> None:
    """No setting is infinite or NaN: comparisons with NaN are false, whatever a field asks for."""
    for name, value in flatten(dataclasses.asdict(config)).items():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise UsageError(f"--{name}: expected a finite number, got {one}")


def check_some(field: str, values: Sequence[Any], known: Sequence[Any] | None = None) -> None:
    """Refuse an empty choice, one that names something twice, or something unknown.

    Raises:
        ValueError: it is one of these.
    """
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{field}: expected some, each once, got {tuple(values)}")
    for value in values:
        if known is not None and value not in known:
            options = ", ".join(str(one) for one in known)
            raise ValueError(f"{field}: expected some of {options}, got {value!r}")


def _check_name(name: str, names: Sequence[str]) -> None:
    leaf = name.rpartition(".")[2]
    positive = name.removesuffix(leaf) + leaf.removeprefix("no_")
    if name == "help" or name in names or positive in names:
        return
    raise UsageError(f"--{name}: no such field{nearest(name, names, '--')} (all: --help)")


def _plain(arguments: Sequence[str], fields: dict[str, Any]) -> list[str]:
    """Names are known, and switches `--x`, `--no-x` as tyro has them instead of true, false."""
    plain, name = [], ""
    for argument in arguments:
        named, value = argument.startswith("--"), argument
        if named:
            flag, _, value = argument.partition("=")
            name = flag[2:].replace("-", "_")
            _check_name(name, [*fields])
        default = fields.get(name)
        if isinstance(default, bool) and value.lower() in ("true", "false"):
            group, dot, leaf = name.rpartition(".")
            argument = f"--{group}{dot}{'no-' * (value.lower() == 'false')}{leaf}"
            plain = plain if named else plain[:-1]  # in the place of the name before it
        plain.append(argument)
        numbers = isinstance(default, tuple) and not any(isinstance(one, str) for one in default)
        if numbers and "," in value:
            raise UsageError(f"--{name}: expected values with spaces between them, got {value}")
    return plain


def _one_line(text: str) -> str:
    """Tyro frames its messages with box characters, in the upper edge stands a title.

    What a configuration says of itself names its field already; what Python says of numbers is
    put in plain words.
    """
    lines = [line for line in text.splitlines() if not line.startswith("\u256d")]
    words = re.sub(r"[^\x20-\x7e]+|-{4,}", " ", " ".join(lines))
    words = re.sub(r"\s+", " ", words).strip()
    words = re.split(r" (?:For full|Argument) helptext", words)[0]
    words = re.sub(r"^Error parsing ([\w.]+): (?=\1\.)", "", words)
    words = words.replace("invalid literal for int() with base 10:", "expected a whole number, got")
    words = words.replace("could not convert string to float:", "expected a number, got")
    return words.removeprefix("Error parsing ")
