"""SIGKILL at random moments, the same command again, and the weights at the end.

One run is left alone; others are killed again and again (during start-up, steps, evaluation or
saving, wherever the clock falls) and restarted by the same command until they end. Weights,
optimizer state, averaged weights and all recorded losses must agree bit for bit.
"""

import os
import random
import signal
from pathlib import Path

from tests.reliability import subject
from tests.reliability.subject import Outcome

SERIES = 20  # kills of one run; each start lives for at most a tenth of the training


def campaign(folder: Path, kills: int, seed: int = 0) -> Outcome:
    """As the module says, in as many runs as it takes.

    Args:
        folder: an empty one.
        kills: in all.
    """
    outcome = Outcome("SIGKILL", "final weights and rows equal those of the run left alone")
    errors = folder / "errors.txt"
    subject.run(folder / "warm", errors)  # fills the compilation cache
    first, length = subject.timed(folder / "whole", errors)
    window = (0.5 * first, first + 0.1 * (length - first))
    generator, starts, index = random.Random(seed), 0, 0
    while outcome.cases < kills:
        index += 1
        directory, killed = folder / f"killed{index}", 0
        least = min(SERIES, kills - outcome.cases)
        while True:
            process = subject.start(directory, errors)
            starts += 1
            process.join(generator.uniform(*window) if killed < least else None)
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        good = process.exitcode == 0 and subject.same(folder / "whole", directory)
        for _ in range(killed):
            outcome.check(good, f"{directory.name}: other weights or rows, {process.exitcode}")
        aside = directory / "quarantine"
        quarantined = len([*aside.glob("*.txt")]) if aside.exists() else 0
        print(
            f"{directory.name}: {killed} kills, {quarantined} set aside, good: {good}", flush=True
        )
    outcome.notes = f"{starts} starts, {index} runs"
    return outcome
