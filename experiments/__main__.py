"""The command line: python -m experiments, or kexue-jax."""

import argparse
import difflib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

from experiments.harness.errors import ExperimentError, UsageError

HOSTS = (
    ("coordinator", str, "address:port of the first process"),
    ("count", int, "of processes"),
    ("index", int, "of this process"),
    ("timeout", int, "seconds to wait for the others at the start (default: 300)"),
    ("patience", int, "seconds without a step after which a host counts as lost (default: 1800)"),
)


class Parser(argparse.ArgumentParser):
    """Errors are raised, to be shown as one line."""

    def error(self, message: str) -> Never:
        """Raise instead of printing the usage."""
        raise UsageError(f"{message}; see: {self.prog} --help")


def build() -> Parser:
    """The parser of all subcommands; fields of an experiment's configuration go to tyro."""
    parser = Parser(prog="kexue-jax", description=__doc__, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
        return command

    one = add("list", "list the experiments")
    one.add_argument("--json", action="store_true")
    one = add("run", "run or resume an experiment; --FIELD VALUE changes its configuration")
    one.add_argument("name", help="<package>/<experiment>, or a Python file")
    one.add_argument("--preset", default="quick", help="quick, cpu or paper (default: quick)")
    one.add_argument("--workdir", type=Path, help="default: runs/<experiment>/<preset>")
    one.add_argument("--dry-run", action="store_true", help="show what would run; compile only")
    one.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    _add_mesh(one)
    text = "as one of several processes; --hosts.* where no cluster tells them of each other"
    one.add_argument("--distributed", action="store_true", help=text)
    for name, kind, text in HOSTS:
        one.add_argument(f"--hosts.{name}", type=kind, dest=name, metavar="X", help=text)
    one = add("sweep", "run an experiment over a grid: --FIELD a,b --FIELD 0:5")
    one.add_argument("name")
    one.add_argument("--preset", default="quick")
    one.add_argument("--workdir", type=Path, help="default: runs/<experiment>/sweep-<preset>")
    one.add_argument("--jobs", type=int, default=1, metavar="N", help="at once (default: 1)")
    text = "of submitit, such as slurm; default: processes of this machine"
    one.add_argument("--cluster", help=text)
    text = "of submitit's executor, such as timeout_min=240 slurm_partition=gpu"
    one.add_argument("--submit", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    one = add("reproduce", "run all experiments that are not finished, then report")
    text = "quick, cpu or paper, with all of that scale, such as cpu_32 (default: quick)"
    one.add_argument("--preset", default="quick", help=text)
    one.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="of names")
    one.add_argument("--workdir", type=Path, default=Path("runs"), help="default: runs")
    text = "at once, each on its share of the cores (default: 1)"
    one.add_argument("--jobs", type=int, default=1, metavar="N", help=text)
    one = add("figures", "redraw all figures from recorded numbers")
    one.add_argument("--workdir", type=Path, default=Path("runs"))
    one = add("report", "claims against results")
    one.add_argument("--json", action="store_true")
    one.add_argument("--brief", action="store_true", help="the counts of verdicts alone")
    one.add_argument("--workdir", type=Path, default=Path("runs"))
    one = add("estimate", "memory and arithmetic before any training")
    one.add_argument("name")
    one.add_argument("--preset", default="quick")
    _add_mesh(one)
    one = add("costs", "cache, parameters and operations of a decoder; --FIELD VALUE changes it")
    one.add_argument(
        "name",
        nargs="?",
        default="gqa",
        help="mha, gqa, mqa, mla or deepseek_v2_lite (default: gqa)",
    )
    one = add("generate", "continue or score text with a public checkpoint")
    given = "config.json, safetensors, tokenizer.json of Llama, Mistral, DeepSeek-V2 or V3"
    one.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help=given)
    one.add_argument("--prompt", action="append", metavar="TEXT", help="again for a batch")
    one.add_argument("--score", metavar="TEXT", help="its log-likelihood, behind the prompt if any")
    one.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="default: 100")
    one.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token")
    one.add_argument("--top-k", type=int, metavar="K")
    one.add_argument("--top-p", type=float, metavar="P")
    one.add_argument("--min-p", type=float, metavar="P")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--chunk", type=int, help="tokens of a prompt that are read at once")
    one.add_argument("--dtype", help="of the weights; that of the file by default")
    one.add_argument("--ignore", nargs="+", default=[], metavar="SETTING", help="of config.json")
    one = add("compress", "compress a file of floats to a given step")
    one.add_argument("file", type=Path, help=".npy, or text with numbers between white space")
    one.add_argument("--step", type=float, help="default: 1/256 of the interquartile range")
    one.add_argument("--output", type=Path, help="default: FILE.fbd")
    one = add("restore", "restore a file that compress has made")
    one.add_argument("file", type=Path)
    one.add_argument("--output", type=Path, help="default: NAME.restored.npy or .txt")
    one = add("compare", "one table and one figure of several runs")
    one.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    one.add_argument("--output", type=Path, default=Path("comparison.png"))
    one = add("new", "write a small working experiment to start from")
    one.add_argument("path", type=Path)
    add("doctor", "devices, versions, data, package origins")
    one = add("publish", "copy a finished run's small outcome into results/")
    one.add_argument("run", type=Path)
    one.add_argument("--results", type=Path, default=Path("results"))
    return parser


def dispatch(arguments: Sequence[str]) -> None:
    """Parse and call the command.

    Raises:
        ExperimentError: anything the user can mend.
    """
    parser = build()
    _suggest_command(parser, arguments)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("run", "sweep", "estimate", "costs"):
        raise UsageError(f"unknown argument {rest[0]!r} of {options.command}")

    _configure_jax()
    if options.command == "run":
        _join(options)
    from experiments import commands

    match options.command:
        case "list":
            commands.list_experiments(options.json)
        case "run":
            commands.run(
                options.name,
                options.preset,
                rest,
                options.workdir,
                wandb=options.wandb,
                dry=options.dry_run,
                layout=_layout(options),
            )
        case "sweep":
            commands.sweep(options, rest)
        case "reproduce":
            commands.reproduce(options.preset, options.only, options.workdir, options.jobs)
        case "figures":
            commands.redraw(options.workdir)
        case "report":
            commands.report(options.workdir, options.json, options.brief)
        case "estimate":
            commands.show_estimate(options.name, options.preset, rest, _layout(options))
        case "costs":
            commands.show_costs(options.name, rest)
        case "generate":
            commands.generate(options)
        case "compress":
            commands.compress(options.file, options.output, options.step)
        case "restore":
            commands.restore(options.file, options.output)
        case "compare":
            commands.compare(options.runs, options.output)
        case "new":
            commands.new(options.path)
        case "doctor":
            commands.doctor()
        case "publish":
            commands.publish(options.run, options.results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: errors are one line on standard error and a non-zero status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        dispatch(arguments)
    except ExperimentError as error:
        if debug:
            traceback.print_exc()
        print(f"kexue-jax: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if debug:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"kexue-jax: {what} (--debug shows where)", file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"kexue-jax: {reason} (--debug shows where)", file=sys.stderr)
        return 1
    return 0


def _suggest_command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Replace argparse's list of choices by the nearest command."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    known = [*actions[0].choices]
    given = next((a for a in arguments if not a.startswith("-")), None)
    if given is not None and given not in known:
        near = difflib.get_close_matches(given, known, n=1, cutoff=0.0)
        raise UsageError(f"no command {given!r}; nearest: {near[0]} (all: {', '.join(known)})")


def _add_mesh(one: argparse.ArgumentParser) -> None:
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    text = "devices among which batches are divided (default: all that mesh.model leaves)"
    one.add_argument("--mesh.data", dest="data", help=text, **number)
    text = "devices among which weights are divided, by heads or channels (default: 1)"
    one.add_argument("--mesh.model", dest="model", default=1, help=text, **number)
    text = "divide weights and moments among the data devices too"
    one.add_argument("--mesh.fsdp", dest="fsdp", action="store_true", help=text)


def _layout(options: argparse.Namespace) -> Any:
    from experiments.harness.sharding import Layout

    return Layout(options.data, options.model, options.fsdp)


def _join(options: argparse.Namespace) -> None:
    from experiments.harness import hosts

    given = {name: getattr(options, name) for name, _, _ in HOSTS}
    chosen = {name: value for name, value in given.items() if value is not None}
    if options.distributed:
        hosts.join(hosts.Hosts(**chosen))
    elif chosen:
        raise UsageError(f"--hosts.{min(chosen)}: expected --distributed beside it")


def _configure_jax() -> None:
    """Keep freed memory, and compiled programs between processes (unless told where)."""
    from experiments.harness.memory import keep_freed_memory

    keep_freed_memory()
    import jax

    from experiments.harness.datasets import cache_folder

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def quieten() -> None:
    """Tell errors of other libraries' threads and callbacks in a line each, not as tracebacks.

    A save that has failed, and is reported, leaves writers whose callbacks come too late.
    """
    if "--debug" in sys.argv:
        return
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def tell(error: BaseException | None, *_: Any) -> None:
        if error is not None and "Event loop is closed" not in str(error):
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"note: in the background, {reason}", file=sys.stderr, flush=True)

    sys.excepthook = lambda kind, error, trace: tell(error)
    sys.unraisablehook = lambda raised: tell(raised.exc_value)
    threading.excepthook = lambda raised: tell(raised.exc_value)


def entry() -> Never:
    """The console script: `main`, then the end of the process.

    After an error it does not wait: not for threads of a save that failed, nor for other hosts,
    which get two seconds to say what they have to say.
    """
    quieten()
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        if _distributed():
            time.sleep(2.0)
        os._exit(code)
    sys.exit(code)


def _distributed() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


if __name__ == "__main__":
    entry()
