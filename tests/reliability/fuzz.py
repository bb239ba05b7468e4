"""The project's own parsers on bytes nobody wrote: each may refuse with ValueError, no more.

python -m tests.reliability.fuzz TARGET [--seconds 600], guided by coverage, where atheris is
installed (pip install atheris); a crash is printed and its input written to the working directory.
The tests replay the corpus in tests/reliability/corpus without it.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def index(data: bytes) -> None:
    """model.safetensors.index.json of a directory with one good file of tensors."""
    from attention import tensor_files

    folder = _folder() / "tensors"
    if not folder.exists():
        golden = Path(__file__).resolve().parents[1] / "golden" / "transformers" / "llama"
        folder.mkdir()
        shutil.copyfile(golden / "model.safetensors", folder / "a.safetensors")
    (folder / tensor_files.INDEX).write_bytes(data)
    _refused(lambda: tensor_files.TensorFiles(folder))


def tensors(data: bytes) -> None:
    """A file of tensors, through the library of the format."""
    from attention import tensor_files

    folder = _folder() / "single"
    folder.mkdir(exist_ok=True)
    (folder / tensor_files.SINGLE).write_bytes(data)
    _refused(lambda: tensor_files.TensorFiles(folder))


@functools.cache
def _table():
    import numpy as np

    from fourier_density.tables import Table

    return Table(np.array([2**23, 2**22, 2**21, 2**21]), 0, 1.0, 0.0, True)


def stream(data: bytes) -> None:
    """Coded values, with the fingerprint and the digest put right, which no chance would."""
    from fourier_density import coding

    table = _table()
    start = coding.HEAD.size - coding.DIGEST
    forged = data[:start] + coding.fingerprint(table) + data[start + coding.DIGEST :]
    _refused(lambda: coding.decode(data, table))
    _refused(lambda: coding.decode(forged + coding._digest(forged), table, most=10**5))


def listops(data: bytes) -> None:
    """An expression; what parses and evaluates is a digit."""
    import numpy as np

    from experiments.ssm import listops_grammar

    def evaluate() -> None:
        tokens = listops_grammar.parse(data.decode(errors="replace"))
        packed = listops_grammar.pack([tokens], 500)
        value = listops_grammar.evaluate(*packed)
        if not 0 <= int(np.asarray(value)[0]) <= 9:
            raise RuntimeError(f"expected a digit, got {value}")

    _refused(evaluate)


def config(data: bytes) -> None:
    """A configuration as JSON, and run.json."""
    from experiments.attention.language_model import Config
    from experiments.harness import config as configs
    from experiments.harness import recorded
    from experiments.harness.errors import ExperimentError

    folder = _folder() / "run"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(data)
    try:
        recorded.load(folder)
        configs.from_dict(Config, json.loads(data))
    except (ExperimentError, ValueError, RecursionError):
        return


def manifest(data: bytes) -> None:
    """The manifest of a checkpoint."""
    from experiments.harness import manifest

    folder = _folder() / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "a").write_bytes(b"a")
    (folder / manifest.NAME).write_bytes(data)
    try:
        manifest.check(folder)
        content = json.loads(data)
        (folder / manifest.NAME).write_bytes(manifest._encoded(content))
        manifest.check(folder)
    except (manifest.Damaged, ValueError, RecursionError, TypeError):
        return


def _refused(function: Callable[[], object]) -> None:
    try:
        function()
    except ValueError:
        return


TARGETS: dict[str, Callable[[bytes], None]] = {
    "index": index,
    "tensors": tensors,
    "stream": stream,
    "listops": listops,
    "config": config,
    "manifest": manifest,
}


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    options = parser.parse_args()
    try:
        import atheris  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SystemExit("fuzz: expected the package atheris; pip install atheris") from None
    with atheris.instrument_imports(
        include=["attention", "fourier_density", "experiments"], enable_loader_override=False
    ):
        for path in sorted((CORPUS / options.target).iterdir()):
            TARGETS[options.target](path.read_bytes())
    found = _folder() / "found"
    found.mkdir()
    settings = [f"-max_total_time={options.seconds}", "-max_len=4096", "-rss_limit_mb=6000"]
    corpus = [str(found), str(CORPUS / options.target)]
    atheris.Setup([sys.argv[0], *settings, *corpus], TARGETS[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
