"""Freed memory stays in the process."""

import resource
import subprocess
import sys

import pytest

from experiments.harness.memory import keep_freed_memory

PROBE = """
import resource, threading
from experiments.harness.memory import keep_freed_memory
{call}
def work():
    for _ in range(2):
        bytearray(100_000_000)  # touched, then freed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        bytes(bytearray(b"x") * 100_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work); thread.start(); thread.join()
"""


def faults(call):
    code = PROBE.format(call=call)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(out.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="needs glibc")
def test_large_buffers_of_threads_are_reused_without_page_faults():
    pages = 3 * 100_000_000 // resource.getpagesize()
    assert faults("") > pages // 2
    assert faults("assert keep_freed_memory()") < pages // 2
