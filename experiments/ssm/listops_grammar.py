"""ListOps: nested operations on lists of digits, read and evaluated many at a time.

    [MAX 4 [MIN 2 3 ] [SM 7 8 ] ]      is the larger of 4, 2 and (7 + 8) mod 10 = 5, so 5

Operators are MIN, MAX, MED (the median, of an even number of digits the mean of the middle two,
rounded down) and SM (the sum modulo 10). Expressions are rows of token numbers with zeros behind;
a machine with one stack a row reads all rows at once.

Source: Nangia and Bowman, ListOps (arXiv 1804.06028).
"""

import numpy as np

WORDS = ("[MIN", "[MAX", "[MED", "[SM", "]", *map(str, range(10)))  # numbers 1, 2, ...
VOCABULARY = 1 + len(WORDS)
CLOSE, ZERO = 5, 6

_LETTERS = "\x01\x02\x03\x04\x050123456789"  # one a word, of which no text has the first five
_NUMBERS = np.full(256, 255, np.uint8)
_NUMBERS[np.frombuffer(_LETTERS.encode(), np.uint8)] = np.arange(1, VOCABULARY)


def parse(text: str) -> np.ndarray:
    """The token numbers of an expression; round brackets, as LRA's files have, mean nothing.

    >>> parse("[MAX 4 [MIN 2 3 ] 0 ]").tolist()
    [2, 10, 1, 8, 9, 5, 6, 5]

    Raises:
        ValueError: a word that is none of the language's.
    """
    letters = text.translate(dict.fromkeys(range(1, 6), "?"))
    for word, letter in zip(WORDS[:5], _LETTERS, strict=False):
        letters = letters.replace(word, f" {letter} ")
    words = letters.replace("(", " ").replace(")", " ").split()
    joined = "".join(words)
    numbers = _NUMBERS[np.frombuffer(joined.encode(errors="replace"), np.uint8)]
    if len(joined) != len(words) or (numbers == 255).any():
        known = dict(zip(_LETTERS, WORDS, strict=True))
        wrong = next((w for w in words if w not in known), "?")
        raise ValueError(f"expected words of {' '.join(WORDS)}, got {known.get(wrong, wrong)!r}")
    return numbers


def pack(rows: list[np.ndarray], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths as [n, longest] with zeros behind, and their lengths.

    Raises:
        ValueError: a row without tokens, or with more than `longest`.
    """
    lengths = np.array([len(row) for row in rows], np.int32)
    bad = np.flatnonzero((lengths < 1) | (lengths > longest))
    if len(bad):
        raise ValueError(
            f"expression {bad[0] + 1}: expected 1 to {longest} tokens, got {lengths[bad[0]]}"
        )
    tokens = np.zeros((len(rows), longest), np.uint8)
    tokens[np.arange(longest) < lengths[:, None]] = np.concatenate(rows)
    return tokens, lengths


def evaluate(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The values [n], 0 to 9, of expressions [n, L].

    >>> evaluate(*pack([parse("[SM 7 8 [MED 1 2 5 ] ]"), parse("3")], 9)).tolist()
    [7, 3]

    Raises:
        ValueError: one does not parse; the message says which, where and why.
    """
    count, inside = len(tokens), np.arange(tokens.shape[1]) < lengths[:, None]
    deepest = 1 + int(_depths(tokens, inside).max(initial=0))
    operators = np.zeros((count, deepest + 1), np.int8)
    digits = np.zeros((count, deepest + 1, 10), np.int32)  # how often each, by level; 0 is outside
    depth = np.zeros(count, np.int32)
    for place in range(int(lengths.max(initial=0))):
        now, token = inside[:, place], tokens[:, place].astype(np.int32)
        begun = (depth > 0) | (place == 0)
        _refuse(now & ~begun, place, "expected the end of the expression, got more")
        _refuse(now & ~((token >= 1) & (token < VOCABULARY)), place, "expected a known token")
        starts, ends = now & (token < CLOSE), now & (token == CLOSE)
        _refuse(ends & (depth == 0), place, "expected an operator before ]")
        rows = np.flatnonzero(starts)
        depth[rows] += 1
        operators[rows, depth[rows]], digits[rows, depth[rows]] = token[rows], 0
        values = token - ZERO
        rows = np.flatnonzero(ends)
        empty = np.zeros(count, bool)
        empty[rows] = digits[rows, depth[rows]].sum(-1) == 0
        _refuse(empty, place, "expected arguments before ]")
        values[rows] = _applied(operators[rows, depth[rows]], digits[rows, depth[rows]])
        depth[rows] -= 1
        rows = np.flatnonzero(now & ~starts)
        digits[rows, depth[rows], values[rows]] += 1
    _refuse(depth > 0, tokens.shape[1], "expected ] for every operator")
    return digits[:, 0].argmax(-1).astype(np.int32)


def values(tokens: np.ndarray, lengths: np.ndarray, at_once: int = 4096) -> np.ndarray:
    """As `evaluate`, of any number of expressions, some at once."""
    found = []
    for start in range(0, len(tokens), at_once):
        some = slice(start, start + at_once)
        try:
            found.append(evaluate(tokens[some], lengths[some]))
        except ValueError as error:
            raise ValueError(
                f"behind expression {start}: {error}" if start else str(error)
            ) from None
    return np.concatenate(found)


def _depths(tokens: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How deep every token stands, as far as brackets match."""
    change = ((tokens >= 1) & (tokens < CLOSE)).astype(np.int32) - (tokens == CLOSE)
    return np.cumsum(change * inside, axis=1)


def _refuse(wrong: np.ndarray, place: int, message: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"expression {row + 1}, token {place + 1}: {message}")


def _applied(operators: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Values [n] of operators [n] on lists given by how often each digit occurs, [n, 10]."""
    upto = np.cumsum(digits, axis=-1)
    many = upto[:, -1]

    def sorted_at(place: np.ndarray) -> np.ndarray:
        return (upto <= place[:, None]).sum(-1)

    found = [
        sorted_at(np.zeros_like(many)),
        sorted_at(many - 1),
        (sorted_at((many - 1) // 2) + sorted_at(many // 2)) // 2,
        (digits * np.arange(10)).sum(-1) % 10,
    ]
    return np.choose(operators.astype(np.intp) - 1, found)
