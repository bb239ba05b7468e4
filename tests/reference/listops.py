"""ListOps read as nested Python lists, one expression at a time."""

import numpy as np


def value(words):
    """The value of an expression given as words, by recursion."""
    result, rest = _value(list(words))
    assert not rest
    return result


def _value(words):
    head, rest = words[0], words[1:]
    if head.isdigit():
        return int(head), rest
    arguments = []
    while rest[0] != "]":
        argument, rest = _value(rest)
        arguments.append(argument)
    how = {
        "[MIN": min,
        "[MAX": max,
        "[MED": lambda values: int(np.median(values)),
        "[SM": lambda values: sum(values) % 10,
    }[head]
    return how(arguments), rest[1:]
