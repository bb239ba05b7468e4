"""Set-up of the whole suite: CPU, compilation cache, run-time type checks, hypothesis."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jaxtyping
import pytest

TESTS = Path(__file__).resolve().parent
# The packages of this checkout, and `reference`, whatever way pytest was started.
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kexue-jax" / "xla"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

jaxtyping.install_import_hook(["fourier_density", "attention"], "beartype.beartype")

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    max_examples=15,
    # A precision is set once for all the examples of a test.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("suite")


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
