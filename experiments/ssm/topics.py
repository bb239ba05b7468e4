"""The longest topics of Python's own documentation, as texts that differ in what they are about."""

import hashlib

from experiments.harness.errors import DataError

HELD_OUT = 0.2


def split(count: int, longest: int) -> tuple[list[bytes], list[bytes]]:
    """The longest topics of Python's documentation: what is to be learnt from, what is held out.

    Raises:
        DataError: one of them is too short for a window.
    """
    named = _texts()
    every: list[bytes] = []
    for text in sorted(named, key=len, reverse=True):
        if len(every) < count and not _repeats(text, every):
            every.append(text)
    least = 2 * longest + 1
    cuts = [len(text) - max(int(HELD_OUT * len(text)), least) for text in every]
    if len(every) < count or min(cuts) < least:
        raise DataError(
            f"data.classes, longest: expected {count} topics of at least {2 * least} bytes, "
            f"got {sum(cut >= least for cut in cuts)}"
        )
    train = [text[:cut] for text, cut in zip(every, cuts, strict=True)]
    return train, [text[cut:] for text, cut in zip(every, cuts, strict=True)]


def digest() -> str:
    """SHA-256 of them all: other versions of Python have others."""
    return hashlib.sha256(b"\0".join(_texts())).hexdigest()


def _texts() -> list[bytes]:
    from pydoc_data.topics import topics

    return [text.encode() for _, text in sorted(topics.items())]


def _repeats(text: bytes, others: list[bytes], size: int = 64) -> bool:
    """Whether a piece in a hundred of a text, every 16 bytes, stands in one of the others too."""
    pieces = [text[start : start + size] for start in range(0, len(text) - size, 16)]
    return sum(any(piece in other for other in others) for piece in pieces) > 0.01 * len(pieces)
