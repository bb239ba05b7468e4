"""Bad input everywhere: the command line, configurations, files, checkpoints, streams, functions.

The command line has to end with its own exit status and one line that begins with kexue-jax; a
library function has to raise ValueError that says what was expected. What is no mistake after all
(a flipped bit that changes nothing that is read, say) may also succeed.
"""

import contextlib
import io
import json
import random
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping

from experiments import catalog
from experiments.__main__ import main
from experiments.harness import config as configs
from experiments.harness.errors import UsageError
from tests.reliability.library import GOLDEN, Case, library, pretrained, streams
from tests.reliability.subject import Outcome


def command(*arguments: Any, own: bool = False, may: bool = False) -> Callable[[], str | None]:
    """A command that must fail in one line of ours.

    Args:
        own: an error of the user's own code, which nobody can foresee.
        may: it may also succeed.
    """

    def check() -> str | None:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([str(a) for a in arguments])
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        text = err.getvalue()
        lines = [line for line in text.splitlines() if line.startswith("kexue-jax: ")]
        if may and code == 0:
            return None
        if code not in (1, 2) or len(lines) != 1 or "Traceback" in text:
            return f"status {code}: {text[-200:]}"
        foreseen = own or "(--debug shows where)" not in lines[0]
        return None if foreseen else f"unforeseen: {lines[0]}"

    return check


def parsed(name: str, field: str, value: str) -> Callable[[], str | None]:
    """A field of a configuration: taken, or refused by name."""

    def check() -> str | None:
        default = catalog.get(name).preset("quick")
        try:
            configs.parse(default, [f"--{field}", value])
        except UsageError as error:
            return None if str(error).strip() else "no message"
        except jaxtyping.TypeCheckError:  # of the hook that tests install
            return None
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:150]}"
        return None

    return check


def fields(every: int = 1) -> Iterator[Case]:
    """Impossible values of every field of every experiment; every few of them for a short run."""
    cases = []
    for name in catalog.names():
        flat = configs.flatten(configs.to_dict(catalog.get(name).preset("quick")))
        for field, value in flat.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            bad = ("-1", "nan", "1e999", "9" * 30) if number else ("", "\x00", "nothing")
            cases += [(f"run {name} --{field} {v!r}", parsed(name, field, v)) for v in bad]
    yield from cases[::every]


BAD = """\
nothing
--nothing
run
run ''
run a/b/c
run fourier_density/mixtures --preset ''
run fourier_density/mixtures --preset large
run fourier_density/mixtures --workdir
run fourier_density/mixtures --workdir {folder}/taken
run fourier_density/mixtures more
run fourier_density/mixtures --nothing 1
run fourier_density/mixtures --seed
run fourier_density/mixtures --seed 1 2
run fourier_density/mixtures --seed x
run fourier_density/mixtures --mesh.data 3
run fourier_density/mixtures --mesh.data 0
run fourier_density/mixtures --mesh.model -1
run fourier_density/mixtures --mesh.model x
run fourier_density/mixtures --hosts.count 2
run attention/language_model --data.text {folder}/absent
run attention/language_model --data.path {folder}/absent
run attention/language_model --data.path {folder}/empty.txt
run diffusion/train --data.path {folder}/absent
run diffusion/train --data.path {folder}/empty
run diffusion/train --data.path {folder}/taken
run diffusion/train --data.path {folder}/words.txt
run diffusion/train --data.size 0
run diffusion/distill --teacher {folder}/absent
run diffusion/distill --teacher {folder}/empty
sweep fourier_density/mixtures
sweep fourier_density/mixtures --seed 1
sweep fourier_density/mixtures --seed 3:1
sweep fourier_density/mixtures --seed 0:2 --jobs 0
sweep fourier_density/mixtures --seed 0:2 --jobs x
sweep fourier_density/mixtures --seed 0:2 --workdir {folder}/taken
sweep nothing --seed 0:2
reproduce --only nothing
reproduce --only
estimate
estimate nothing
estimate attention/language_model --mesh.data 7
costs nothing
costs gqa --nothing 1
generate
generate --checkpoint {golden}/llama
generate --checkpoint {golden}/llama --prompt a --top-p 2
generate --checkpoint {golden}/llama --prompt a --top-k 0
generate --checkpoint {golden}/llama --prompt a --temperature -1
generate --checkpoint {golden}/llama --prompt a --temperature nan
generate --checkpoint {golden}/llama --prompt a --seed -1
generate --checkpoint {golden}/llama --prompt a --dtype int8
generate --checkpoint {golden}/llama --prompt a --max-new-tokens -1
compress {folder}/words.txt --step 0
compress {folder}/words.txt --step nan
publish {folder}/taken
compare
new
list more
doctor more
report --nothing
cite nothing
cite fourier_density/mixtures nothing
completion ksh
"""  # besides these, no argument at all


def commands(folder: Path) -> Iterator[Case]:
    """Commands that cannot be carried out."""
    files = {
        "empty.txt": b"",
        "noise.bin": random.Random(0).randbytes(300),
        "words.txt": b"one two three",
        "list.json": b"[1, 2]",
        "deep.json": b"[" * 10**5,
        "array.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, "
        b"'shape': (1099511627776,), }" + b" " * 40 + b"\n",
        "object.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, "
        b"'shape': (2,), }".ljust(117)
        + b"\n",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "empty").mkdir()
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.tex").write_text("mine")
    places = [*(folder / name for name in files), folder / "empty", folder / "absent"]
    for place in places:
        yield f"compress {place.name}", command("compress", place, "--output", folder / "out")
        yield f"restore {place.name}", command("restore", place, "--output", folder / "out")
        yield f"publish {place.name}", command("publish", place)
        yield f"compare {place.name}", command("compare", place, place)
        yield f"run {place.name}", command("run", place)
        yield f"estimate {place.name}", command("estimate", place)
        yield (
            f"generate {place.name}",
            command("generate", "--checkpoint", place, "--prompt", "a"),
        )
        if place.is_file():
            small = ("run", "fourier_density/mixtures", "--workdir")
            yield f"run into {place.name}", command(*small, place)
            yield f"run below {place.name}", command(*small, place / "run")
            yield f"new {place.name}", command("new", place)
            yield f"figures {place.name}", command("figures", "--workdir", place)
    for line in ["", *BAD.format(folder=folder, golden=GOLDEN).splitlines()]:
        yield line, command(*shlex.split(line))


def records(folder: Path, run: Path) -> Iterator[Case]:
    """A finished run whose run.json is damaged, read by every command that reads runs."""
    text = (run / "run.json").read_text()
    data = json.loads(text)
    spoiled = {
        "empty": "",
        "cut": text[: len(text) // 2],
        "list": "[]",
        "number": "3",
        "null": "null",
        "bytes": "\udcff",
        "deep": '{"a":' * 10**4,
        "no config": json.dumps({**data, "config": None}),
        "config list": json.dumps({**data, "config": [1]}),
        "no experiment": json.dumps({k: v for k, v in data.items() if k != "experiment"}),
        "strange experiment": json.dumps({**data, "experiment": ["a"]}),
        "unknown experiment": json.dumps({**data, "experiment": "a/b"}),
        "no result": json.dumps({**data, "result": [1]}),
    }
    for name, changed in spoiled.items():
        copy = folder / f"record {name}" / "run"
        shutil.copytree(run, copy)
        (copy / "run.json").write_bytes(changed.encode(errors="surrogateescape"))
        other = name == "unknown experiment"  # that of a user's file, say
        results = folder / "results"
        for arguments in (("compare", copy, copy), ("publish", copy, "--results", results)):
            yield f"run.json {name}: {arguments[0]}", command(*arguments, may=other)
        for arguments in (
            ("figures", "--workdir", copy.parent),
            ("report", "--workdir", copy.parent),
            ("run", "fourier_density/mixtures", "--workdir", copy),
        ):
            yield f"run.json {name}: {arguments[0]}", command(*arguments)


def user_files(folder: Path) -> Iterator[Case]:
    """Experiments of one's own with a mistake."""
    head = '"""Mine."""\nimport dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Config:\n'
    good = head + "    n: int = 1\nPRESETS = {'quick': Config()}\n"
    for name, text in {
        "syntax": "def (",
        "empty": "",
        "noise": "\x00\x01",
        "missing import": "import nothing_of_this_name",
        "raises": "raise RuntimeError('no')",
        "exits": "import sys; sys.exit(3)",
        "no main": good,
        "main fails": good + "def main(config, run):\n    return 1 / 0\n",
        "main exits": good + "def main(config, run):\n    raise SystemExit(4)\n",
        "main takes nothing": good + "def main():\n    return {}\n",
        "main is no function": good + "main = 3\n",
        "presets list": head + "    n: int = 1\nPRESETS = [Config()]\ndef main(c, r): return {}\n",
        "presets empty": head + "    n: int = 1\nPRESETS = {}\ndef main(c, r): return {}\n",
        "presets of ints": head + "    n: int = 1\nPRESETS = {'quick': 3}\n",
        "config of arrays": "import numpy as np\n"
        + head
        + "    n: object = dataclasses.field(default_factory=lambda: np.zeros(2))\n"
        + "PRESETS = {'quick': Config()}\ndef main(c, r): return {}\n",
        "result list": good + "def main(c, r):\n    return [1]\n",
        "result of objects": good + "def main(c, r):\n    return {'a': object()}\n",
        "draw fails": good
        + "def main(c, r):\n    return {'a': 1}\ndef draw(r):\n    return 1 / 0\n",
        "table fails": good + "def main(c, r):\n    return {'a': 1}\ndef table(r): return 3\n",
        "recursion": good + "def main(c, r):\n    return main(c, r)\n",
    }.items():
        path = folder / f"mine {name}.py"
        path.write_text(text)
        where = folder / f"runs {name}"
        own = name in ("main fails", "draw fails", "table fails", "recursion")
        yield f"experiment: {name}", command("run", path, "--workdir", where, own=own)


def campaign(folder: Path, every: int = 1) -> Outcome:
    """All of them; every few of the long lists for a short run."""
    outcome = Outcome("bad input", "one line by name; of the library, a ValueError that says why")
    finished = folder / "finished"
    small = ["run", "fourier_density/mixtures", "--workdir", str(finished), "--orders", "2"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if main(small):
            raise RuntimeError("expected a run to spoil")
    kinds = {
        "commands": commands(folder),
        "fields": fields(every),
        "records": records(folder, finished),
        "experiments": user_files(folder),
        "pretrained": pretrained(folder, every),
        "streams": streams(max(1, 40 // every)),
        "library": library(),
    }
    counts = {}
    with contextlib.chdir(folder):  # commands write there
        for kind, cases in kinds.items():
            before = outcome.cases
            for name, check in cases:
                wrong = check()
                outcome.check(wrong is None, f"{kind}: {name}: {wrong}")
            counts[kind] = outcome.cases - before
    outcome.notes = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return outcome
