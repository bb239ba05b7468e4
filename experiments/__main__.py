"""The command line: python -m experiments, or kexue-jax."""

import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, Never

from experiments.dispatch import dispatch
from experiments.harness.errors import ExperimentError, in_line, place


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: errors are one line on standard error and a non-zero status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        dispatch(arguments)
    except ExperimentError as error:
        if debug:
            traceback.print_exc()
        print(f"kexue-jax: {in_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kexue-jax: interrupted", file=sys.stderr)
        return 130
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
        reason = in_line(f"{type(error).__name__}: {error}")
        print(f"kexue-jax: {reason}{place(error)} (--debug shows where)", file=sys.stderr)
        return 1
    return 0


def quieten() -> None:
    """Tell warnings, and errors of other libraries' threads and callbacks, in a line each.

    A save that has failed, and is reported, leaves writers whose callbacks come too late.
    """
    if "--debug" in sys.argv:
        return
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    told: set[str] = set()

    def note(message: Warning | str, *_: Any, **__: Any) -> str:
        """Once each: places in the code, by which Python tells warnings apart, are not shown."""
        line = f"note: {in_line(message)}\n"
        new = line not in told
        told.add(line)
        return line * new

    warnings.formatwarning = note

    def tell(error: BaseException | None, *_: Any) -> None:
        if error is not None and "Event loop is closed" not in str(error):
            reason = in_line(f"{type(error).__name__}: {error}")
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
