"""Bad files and values for the library: checkpoints, streams, configurations."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import fourier_density
from attention import (
    ExpertsConfig,
    GroupedConfig,
    GroupedLatentConfig,
    LatentConfig,
    TiedConfig,
    TransformerConfig,
    load_pretrained,
)
from fourier_density import coding, tables

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "transformers"
Case = tuple[str, Callable[[], str | None]]  # a name, and what is wrong if anything is


def refused(function: Callable[[], Any], *, may: bool = False) -> Callable[[], str | None]:
    """A call that must raise ValueError with a sentence; or may succeed."""

    def check() -> str | None:
        try:
            function()
        except ValueError as error:
            return None if "expected" in str(error) else f"says only: {str(error)[:150]}"
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:150]}"
        return None if may else "was accepted"

    return check


def _headers(tensors: bytes, head: int, table: Any) -> Iterator[tuple[str, bytes]]:
    """A file of safetensors with other headers."""
    first = next(name for name in table if name != "__metadata__")
    for text in (
        {**table, first: {**table[first], "shape": [2**40, 2**20]}},
        {**table, first: {**table[first], "data_offsets": [0, 2**60]}},
        {**table, first: {**table[first], "data_offsets": [-1, 4]}},
        {**table, first: {**table[first], "dtype": "OBJECT"}},
        {name: entry for name, entry in table.items() if name != first},
        [],
    ):
        encoded = json.dumps(text).encode()
        header = len(encoded).to_bytes(8, "little") + encoded
        yield "header of safetensors", header + tensors[8 + head :]
    for size in (0, 7, 2**63, 2**62, 10**9, head - 1, head + 1):
        yield f"header of {size} bytes", size.to_bytes(8, "little") + tensors[8:]


def pretrained(folder: Path, every: int = 1) -> Iterator[Case]:
    """Directories of checkpoints with other settings, and with damaged tensors."""
    generator, cases = random.Random(0), []

    def load(name: str, spoil: Callable[[Path], None]) -> Callable[[], Any]:
        def function() -> Any:
            copy = folder / f"copy{generator.random()}"
            shutil.copytree(GOLDEN / name, copy)
            try:
                spoil(copy)
                return load_pretrained(copy)
            finally:
                shutil.rmtree(copy)

        return function

    def setting(key: str, value: Any) -> Callable[[Path], None]:
        def spoil(copy: Path) -> None:
            data = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps({**data, key: value}))

        return spoil

    for name in ("llama", "deepseek_v2"):
        data = json.loads((GOLDEN / name / "config.json").read_text())
        for key, value in data.items():
            bad = (None, -1, 0, "x", [], 10**12) if isinstance(value, int) else (3, [1], {"a": 1})
            cases += [
                (f"{name} {key} {v!r}", refused(load(name, setting(key, v)), may=True)) for v in bad
            ]
    tensors = (GOLDEN / "llama" / "model.safetensors").read_bytes()

    def written(data: bytes) -> Callable[[Path], None]:
        return lambda copy: (copy / "model.safetensors").write_bytes(data) and None

    head = int.from_bytes(tensors[:8], "little")
    table = json.loads(tensors[8 : 8 + head])
    for name, changed in _headers(tensors, head, table):
        cases.append((name, refused(load("llama", written(changed)))))
    for _ in range(40):
        end = generator.randrange(len(tensors))
        cases.append((f"cut to {end}", refused(load("llama", written(tensors[:end])))))
        flipped = bytearray(tensors)
        flipped[generator.randrange(8 + head)] ^= 1 << generator.randrange(8)
        cases.append(("flip", refused(load("llama", written(bytes(flipped))), may=True)))
    for target in ("../other.safetensors", "/etc/passwd", "a\0b", "", ".", 3, None):
        index = {"weight_map": dict.fromkeys(table, target)}

        def spoil(copy: Path, index: Any = index) -> None:
            (copy / "model.safetensors").unlink()
            (copy / "model.safetensors.index.json").write_text(json.dumps(index))

        cases.append((f"index to {target!r}", refused(load("llama", spoil))))
    yield from cases[::every]


def streams(count: int) -> Iterator[Case]:
    """Coded values that were cut, flipped or made up."""
    generator = random.Random(0)
    density = fourier_density.PeriodicDensity(jnp.array([1.0, 0.3 - 0.2j]))
    table = tables.from_density(density, step=0.02)
    values = np.asarray(density.quantile(jnp.linspace(0.01, 0.99, 200)))
    data = coding.compress(values, table)

    def again(changed: bytes) -> Callable[[], str | None]:
        return refused(lambda: coding.decompress(changed, table))

    for _ in range(count):
        end = generator.randrange(len(data))
        flipped = bytearray(data)
        flipped[end] ^= 1 << generator.randrange(8)
        yield f"stream cut to {end}", again(data[:end])
        yield f"stream flipped at {end}", again(bytes(flipped))
        yield "stream of noise", again(generator.randbytes(generator.randrange(300)))


def library() -> Iterator[Case]:
    """Configurations of the packages with impossible values."""
    made = (
        GroupedConfig(32, 4, 2),
        LatentConfig(32, 4, 8),
        GroupedLatentConfig(32, 4, 2, 8),
        TiedConfig(32, 4, 1),
        ExpertsConfig(8, 2, 16, shared_d_ff=32),
        TransformerConfig(64, 2, GroupedConfig(32, 4, 2)),
    )
    for config in made:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            for bad in (-1, -(10**12)):
                change = {field.name: type(value)(bad)}
                yield (
                    f"{type(config).__name__}({field.name}={bad})",
                    refused(lambda c=config, d=change: dataclasses.replace(c, **d)),
                )
