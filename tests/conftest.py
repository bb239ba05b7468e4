"""Set-up of the whole suite: CPU, compilation cache, run-time type checks, hypothesis."""

import collections
import ctypes
import gc
import importlib.metadata
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
MOST_BYTES = 3 * 2**30
_limit = [MOST_BYTES]
# The packages of this checkout, and `reference`, whatever way pytest was started.
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kexue-jax" / "xla"
for name, value in (
    ("jax_compilation_cache_dir", str(CACHE)),
    ("jax_persistent_cache_min_compile_time_secs", 0.0),
    ("jax_persistent_cache_min_entry_size_bytes", -1),
):
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # for processes that tests start

# Compiling takes most of the suite's time; LLVM's optimisations do not pay for tiny programs, nor
# do the newer emitters of fusions. XLA reads its flags when first used, which is later than this;
# processes started by tests inherit both. KEXUE_OPTIMISED=1 compiles as users do.
if os.environ.get("KEXUE_OPTIMISED", "0") == "0":
    FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag from 0.11 on
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)

jaxtyping.install_import_hook(
    ["fourier_density", "attention", "ssm", "diffusion"], "beartype.beartype"
)

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    max_examples=15,
    # A precision is set once for all the examples of a test.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also tests marked `slow` and all cases")


def pytest_collection_modifyitems(config, items):
    """Leave out what is slow, and most cases of tests marked `sample`; what is named runs."""
    if config.option.all or any("::" in argument for argument in config.args):
        return
    left_out = {item for item in items if item.get_closest_marker("slow")}
    cases = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            cases[item.nodeid.split("[")[0]].append(item)
    for every in cases.values():
        chosen = every[0].get_closest_marker("sample").args
        if isinstance(chosen[0], int):
            spread = np.linspace(0, len(every) - 1, *chosen).round()
            kept = {every[int(i)] for i in spread}
        else:
            kept = {item for item in every if any(f"[{name}]" in item.nodeid for name in chosen)}
            assert len(kept) == len(chosen), f"{every[0].nodeid}: a sample that is not there"
        left_out |= set(every) - kept
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def little_memory():
    """Drop compiled programs and give memory back when a process has grown.

    Thousands of programs stay alive otherwise, of some twenty memory maps each, of which Linux
    grants 65 530 (vm.max_map_count); and what compilers free stays with glibc's allocator,
    gigabytes of it, until it is asked to return it. The cache of compilations has what is
    needed again.
    """
    yield
    if resident() > _limit[0]:
        jax.clear_caches()
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        _limit[0] = max(MOST_BYTES, 2 * resident())


def resident():
    """Bytes of memory in use; 0 where there is no /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.fixture
def x64():
    """Run the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Run the test in single and in double precision; the value names the dtype."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param
