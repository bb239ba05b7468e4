"""From the arguments of the command line to the function of a command."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from argcomplete.shell_integration import shellcode

from experiments.arguments import (
    FIELDS,
    HOSTS,
    build,
    check_order,
    complete,
    help_text,
    suggest_command,
    suggest_option,
)
from experiments.harness.errors import UsageError


def dispatch(arguments: Sequence[str]) -> None:
    """Parse and call the command.

    Raises:
        ExperimentError: anything the user can mend.
    """
    parser = build()
    if "_ARGCOMPLETE" in os.environ:
        complete(parser)
    if not arguments:
        parser.print_help(sys.stderr)
        raise SystemExit(UsageError.exit_code)
    suggest_command(parser, arguments)
    if arguments and arguments[0] in FIELDS and not {"-h", "--help"}.isdisjoint(arguments):
        _help(parser, arguments)
        return
    if arguments[0] in FIELDS:
        arguments = check_order(parser, arguments)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in FIELDS:
        suggest_option(parser, options.command, rest[0])

    if options.command == "completion":
        print(shellcode(["kexue-jax"], shell=options.shell))
        return
    _configure_jax()
    if options.command == "run":
        _join(options)
    _call(options, rest)


def _help(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Of the command, then of the fields of the configuration that it is asked about."""
    print(help_text(parser, arguments[0]))
    try:
        rest = [argument for argument in arguments if argument not in ("-h", "--help")]
        options, _ = parser.parse_known_args(rest)
    except UsageError:
        print(f"{arguments[0]} NAME --help also lists the fields of its configuration")
        return
    from experiments import planning

    preset = "" if options.command == "costs" else options.preset
    planning.show_fields(options.command, options.name, preset)


def _call(options: argparse.Namespace, rest: list[str]) -> None:
    from experiments import citations, commands, comparing, planning, publishing

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
            commands.redraw(options.workdir, options.files)
        case "report":
            commands.report(options.workdir, options.files, options.json, options.brief)
        case "estimate":
            planning.show_estimate(options.name, options.preset, rest, _layout(options))
        case "costs":
            commands.show_costs(options.name, rest)
        case "generate":
            commands.generate(options)
        case "compress":
            commands.compress(options.file, options.output, options.step)
        case "restore":
            commands.restore(options.file, options.output)
        case "compare":
            comparing.compare(options.runs, options.output)
        case "cite":
            print(citations.bibtex(options.names))
        case "new":
            commands.new(options.path, options.training)
        case "doctor":
            commands.doctor()
        case "publish":
            publishing.publish(options.run, options.results)


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
    """Sums, freed memory, compiled programs kept between processes (unless told where)."""
    from experiments.harness.memory import keep_freed_memory

    keep_freed_memory()
    import jax

    from experiments.harness.compiling import use_right_sums
    from experiments.harness.datasets import cache_folder

    use_right_sums()
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
