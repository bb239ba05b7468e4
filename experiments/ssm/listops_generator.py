"""Random expressions of ListOps, grown many at a time.

Source: Nangia and Bowman, ListOps (arXiv 1804.06028); the distribution is that of the Long Range
Arena's generator (2011.04006).
"""

import numpy as np

from experiments.harness.errors import DataError
from experiments.ssm.listops_grammar import CLOSE, VOCABULARY, ZERO

NESTED = 0.25  # how often an argument is an operation


def generate(
    rng: np.random.Generator,
    count: int,
    shortest: int,
    longest: int,
    *,
    depth: int = 10,
    arguments: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Different random expressions, tokens [count, longest], and their lengths [count].

    Every argument is an operation in a quarter of cases, with 2 to `arguments` arguments, down to
    `depth` levels, the innermost of digits; what is not of the wanted length is drawn again.

    Raises:
        DataError: hardly any expression of this depth is so long or so short.
    """
    tokens, lengths, seen = [], [], set()
    tried = 0
    while len(lengths) < count:
        batch = min(16_384, max(256, 4 * count))
        found, ends = _grown(rng, batch, longest, depth, arguments)
        for row in np.flatnonzero((ends >= shortest) & (ends <= longest)):
            name = found[row, : ends[row]].tobytes()
            if name not in seen and len(lengths) < count:
                seen.add(name)
                tokens.append(found[row])
                lengths.append(ends[row])
        tried += batch
        if tried > 2000 * (len(lengths) + 256):
            raise DataError(
                f"data.shortest, longest, depth: expected lengths that expressions have, got "
                f"{len(lengths)} different ones of {shortest} to {longest} tokens in {tried}"
            )
    return np.stack(tokens), np.array(lengths, np.int32)


def _grown(
    rng: np.random.Generator, count: int, longest: int, depth: int, arguments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Expressions [count, longest] and lengths; longest + 1 for those that go on."""
    tokens = np.zeros((count, longest), np.uint8)
    lengths = np.full(count, longest + 1, np.int32)
    left = np.zeros((count, depth + 1), np.int32)  # arguments that are to come, by level
    level = np.zeros(count, np.int32)
    left[:, 0] = 1
    alive = np.arange(count)
    for place in range(longest):
        here = level[alive]
        closing = left[alive, here] == 0
        nested = (rng.random(len(alive)) < NESTED) & (here < depth - 1)
        if place == 0:
            nested[:] = depth > 1  # a single digit is an expression of one token
        nested &= ~closing
        token = np.where(
            nested, rng.integers(1, CLOSE, len(alive)), rng.integers(ZERO, VOCABULARY, len(alive))
        )
        tokens[alive, place] = np.where(closing, CLOSE, token)
        rows = alive[~closing]
        left[rows, level[rows]] -= 1
        rows = alive[nested]
        level[rows] += 1
        left[rows, level[rows]] = rng.integers(2, arguments + 1, len(rows))
        level[alive[closing]] -= 1
        done = (level[alive] == 0) & (left[alive, 0] == 0)
        lengths[alive[done]] = place + 1
        alive = alive[~done]
        if len(alive) == 0:
            break
    return tokens, lengths
