"""The corpus of the fuzzer through every parser, and what random changes make of it."""

import random

import pytest

from tests.reliability import fuzz


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_parsers_refuse_or_read(target):
    files = sorted((fuzz.CORPUS / target).iterdir())
    assert len(files) >= 1 and sum(path.stat().st_size for path in files) < 2**17
    generator = random.Random(0)
    for path in files:
        data = path.read_bytes()
        fuzz.TARGETS[target](data)
        for _ in range(40):
            changed = bytearray(data)
            for _ in range(generator.randint(1, 4)):
                at = generator.randrange(len(changed) + 1)
                changed[at : at + generator.randint(0, 3)] = generator.randbytes(
                    generator.randint(0, 3)
                )
            fuzz.TARGETS[target](bytes(changed))
