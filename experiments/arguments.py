"""The parser of the command line: subcommands, their options and help, completion in shells."""

import argparse
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Never

import argcomplete

from experiments.harness.errors import UsageError, nearest
from experiments.names import RESULTS, RUNS, names

Add = Callable[[str, str], argparse.ArgumentParser]
NAME = "<package>/<experiment>, as `list` names it, or the path of a Python file"
WHICH = "names of experiments, or patterns such as 'ssm/*' (default: all)"
IGNORE = "settings of config.json to ignore: unknown ones are refused otherwise"
OWN = "Python files of your own experiments, whose runs are drawn too (their code is executed)"
PRESET = "quick, cpu, paper or another preset of the experiment (default: quick)"
HOSTS = (
    ("coordinator", str, "address:port of the first process"),
    ("count", int, "number of processes"),
    ("index", int, "index of this process, from 0"),
    ("timeout", int, "seconds to wait at the start for the other processes (default: 300)"),
    ("patience", int, "seconds without a step after which a host counts as lost (default: 1800)"),
)


FIELDS = ("run", "sweep", "estimate", "costs")  # take fields of a configuration as well


class Parser(argparse.ArgumentParser):
    """Errors are raised, to be shown as one line."""

    def error(self, message: str) -> Never:
        """Raise instead of printing the usage."""
        raise UsageError(f"{message}; see: {self.prog} --help")


def build() -> Parser:
    """The parser of all subcommands; fields of an experiment's configuration go to tyro."""
    text = "Experiments on Fourier densities, attention, diffusion and state-space models."
    parser = Parser(prog="kexue-jax", description=text, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    version = f"%(prog)s {metadata.version('kexue-jax')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
        return command

    _add_running(add)
    _add_results(add)
    _add_tools(add)
    return parser


def _add_running(add: Add) -> None:
    one = add("list", "list the experiments")
    one.add_argument("--json", action="store_true", help="print JSON, for programs")
    one = add("run", "run or resume an experiment; --FIELD VALUE sets a configuration field")
    one.add_argument("name", help=NAME)
    one.add_argument("--preset", default="quick", help=PRESET)
    one.add_argument("--workdir", type=Path, help="default: runs/<experiment>/<preset>[-<hash>]")
    one.add_argument("--dry-run", action="store_true", help="only show config, data, memory, FLOPs")
    one.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    _add_mesh(one)
    text = "run as one of several processes; give --hosts.* unless the cluster provides them"
    one.add_argument("--distributed", action="store_true", help=text)
    for name, kind, text in HOSTS:
        one.add_argument(f"--hosts.{name}", type=kind, dest=name, metavar="X", help=text)
    one = add("sweep", "run an experiment over a grid: --FIELD a,b --FIELD 0:5 (0 to 4)")
    one.add_argument("name", help=NAME)
    one.add_argument("--preset", default="quick", help=PRESET)
    one.add_argument("--workdir", type=Path, help="default: runs/<experiment>/sweep-<preset>")
    one.add_argument("--dry-run", action="store_true", help="only list the runs")
    one.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    text = "cluster type of submitit, such as slurm (default: processes on this machine)"
    one.add_argument("--cluster", help=text)
    text = "parameters of submitit's executor, such as timeout_min=240 slurm_partition=gpu"
    one.add_argument("--submit", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    one = add("reproduce", "run all experiments that are not finished, then report")
    text = "quick, cpu or paper, and its variants such as cpu_32 with it (default: quick)"
    one.add_argument("--preset", default="quick", help=text)
    one.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help=WHICH)
    one.add_argument("--workdir", type=Path, default=RUNS, help="folder of runs (default: runs)")
    text = "runs at once, each on an equal share of the cores (default: 1)"
    one.add_argument("--jobs", type=int, default=1, metavar="N", help=text)
    one = add("estimate", "memory and FLOPs of an experiment's programs, before any training")
    one.add_argument("name", help=NAME)
    one.add_argument("--preset", default="quick", help=PRESET)
    _add_mesh(one)
    one = add("new", "write a small working experiment to start from")
    one.add_argument("path", type=Path, help="path of the file to write")
    one.add_argument("--training", action="store_true", help="write one that trains a network")


def _add_results(add: Add) -> None:
    one = add("figures", "redraw all figures from recorded numbers")
    one.add_argument("files", type=Path, nargs="*", metavar="FILE", help=OWN)
    one.add_argument("--workdir", type=Path, default=RUNS, help="default: runs")
    one = add("report", "compare the claims of papers and posts with the results of runs")
    text = "Python files of your own experiments, to report on them only (their code is executed)"
    one.add_argument("files", type=Path, nargs="*", metavar="FILE", help=text)
    one.add_argument("--json", action="store_true", help="print JSON, for programs")
    one.add_argument("--brief", action="store_true", help="print only the counts of verdicts")
    one.add_argument("--workdir", type=Path, default=RUNS, help="default: runs")
    one = add("compare", "one table and one figure of several runs")
    one.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    one.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.png"),
        help="the figure, overwritten if it exists (default: comparison.png)",
    )
    one = add("publish", "copy a finished run's record, rows, table and figure into results/")
    one.add_argument("run", type=Path, help="directory of a finished run")
    one.add_argument("--results", type=Path, default=RESULTS, help="default: results")
    one = add("cite", "BibTeX of the project, and of papers and posts that experiments reproduce")
    one.add_argument("names", nargs="*", metavar="NAME", help="names of experiments")


def _add_tools(add: Add) -> None:
    one = add("costs", "cache, parameters and FLOPs of a decoder; --FIELD VALUE changes its sizes")
    one.add_argument(
        "name",
        nargs="?",
        default="gqa",
        help="decoder to begin with: mha, gqa, mqa, mla or deepseek_v2_lite (default: gqa)",
    )
    one = add("generate", "continue or score text with a public checkpoint or a run")
    given = "folder with config.json, safetensors and tokenizer.json (Llama, Mistral, DeepSeek-V2 "
    given += "or V3), or of a run of attention/language_model"
    one.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help=given)
    one.add_argument("--prompt", action="append", metavar="TEXT", help="repeat it for a batch")
    one.add_argument("--score", metavar="TEXT", help="print its log-likelihood, after any prompt")
    one.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="default: 100")
    one.add_argument("--temperature", type=float, default=0.0, help="default: 0, which is greedy")
    one.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens")
    one.add_argument("--top-p", type=float, metavar="P", help="nucleus sampling with total mass P")
    text = "sample only tokens with at least P times the largest probability"
    one.add_argument("--min-p", type=float, metavar="P", help=text)
    one.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    one.add_argument("--chunk", type=int, help="prompt tokens to read at once (default: all)")
    one.add_argument("--dtype", help="of the weights, such as bfloat16 (default: as in the file)")
    one.add_argument("--ignore", nargs="+", default=[], metavar="SETTING", help=IGNORE)
    one = add("compress", "compress a file of floats, each kept to within half a step")
    one.add_argument("file", type=Path, help=".npy, or text with numbers between white space")
    one.add_argument("--step", type=float, help="step (default: 1/256 of the interquartile range)")
    one.add_argument("--output", type=Path, help="default: FILE.fbd")
    one = add("restore", "restore a file that compress has made")
    one.add_argument("file", type=Path, help="the archive, NAME.fbd")
    one.add_argument("--output", type=Path, help="default: NAME.restored.npy or .txt")
    add("doctor", "show devices, versions, data sets found, and where packages come from")
    one = add("completion", 'set up completion in a shell: eval "$(kexue-jax completion bash)"')
    one.add_argument("shell", choices=("bash", "zsh", "fish"), nargs="?", default="bash")


def suggest_command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Replace argparse's list of choices by the nearest command."""
    known = [*_commands(parser)]
    given = next((a for a in arguments if not a.startswith("-")), None)
    if given is not None and given not in known:
        raise UsageError(f"no command {given!r}{nearest(given, known)} (all: {', '.join(known)})")


def suggest_option(parser: argparse.ArgumentParser, command: str, given: str) -> Never:
    """Refuse an option that a subcommand has not, naming the nearest of its own."""
    actions = _commands(parser)[command]._actions
    known = [option for action in actions for option in action.option_strings]
    raise UsageError(f"unknown argument {given!r} of {command}{nearest(given, known)}")


def check_order(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments, with the name where it may be left out and is.

    Raises:
        UsageError: a field before the name, whose value would be taken for that.
    """
    command, *rest = arguments
    actions = _commands(parser)[command]._actions
    (name,) = (action for action in actions if action.dest == "name")
    options = {option: action for action in actions for option in action.option_strings}
    value = False  # whether it is that of an option
    for argument in rest:
        option, equals, _ = argument.partition("=")
        if option in options:
            value = not equals and options[option].nargs != 0
        elif value:
            value = False
        elif not argument.startswith("--"):
            break
        elif name.default is not None:
            return [command, name.default, *rest]
        else:
            before = f"{command} NAME {argument} ..."
            raise UsageError(f"{argument}: expected the name before it: {before}")
    return [*arguments]


def help_text(parser: argparse.ArgumentParser, command: str) -> str:
    """Of a subcommand."""
    return _commands(parser)[command].format_help()


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what a word may become, and leave."""
    for command in _commands(parser).values():
        for action in command._actions:
            if action.dest in ("name", "names", "only") and command.prog.split()[-1] != "costs":
                action.completer = lambda **_: names()  # type: ignore[attr-defined]
            elif action.dest == "preset":
                action.completer = lambda **_: ("quick", "cpu", "paper")  # type: ignore[attr-defined]
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", 0))]
    for command, field in _fields(line.split()):
        _commands(parser)[command].add_argument(f"--{field}")
    argcomplete.autocomplete(parser)


def _fields(words: Sequence[str]) -> list[tuple[str, str]]:
    """Of the configuration that a line is about, once it asks for an option, beside its command.

    Only then JAX is loaded, which takes a second or two; files of the user's are not executed.
    """
    command = next((word for word in words if word in FIELDS), None)
    name = next((word for word in words if word in names()), None)
    if command is None or name is None or not words[-1].startswith("--"):
        return []
    from experiments import catalog
    from experiments.harness import config as configs

    default = catalog.get(name).preset("quick")
    fields = configs.flatten(configs.to_dict(default))
    return [(command, field.replace("_", "-")) for field in fields]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return commands.choices


def _add_mesh(one: argparse.ArgumentParser) -> None:
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    text = "data-parallel devices, which split each batch (default: all devices / mesh.model)"
    one.add_argument("--mesh.data", dest="data", help=text, **number)
    text = "model-parallel devices, which split weights by heads or channels (default: 1)"
    one.add_argument("--mesh.model", dest="model", default=1, help=text, **number)
    text = "split weights and optimizer moments over the data-parallel devices too (FSDP)"
    one.add_argument("--mesh.fsdp", dest="fsdp", action="store_true", help=text)
