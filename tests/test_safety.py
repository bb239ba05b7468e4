"""What the whole tree holds itself to: no pickles, no private paths, few permissions."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("attention", "diffusion", "experiments", "fourier_density", "ssm", "benchmarks")
RUN_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_unpickled_or_evaluated(package):
    for path in (ROOT / package).rglob("*.py"):
        peer = path.name.startswith("torch_")  # benchmarks beside PyTorch, in its own environment
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [(node.module or "").partition(".")[0]]
            assert peer or not RUN_CODE & set(names), f"{path}:{node.lineno}: {names}"
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                assert called not in ("eval", "exec"), f"{path}:{node.lineno}: {called}"
                for keyword in node.keywords:
                    if keyword.arg == "allow_pickle":
                        value = keyword.value
                        assert isinstance(value, ast.Constant) and value.value is False


def test_published_results_hold_no_private_paths():
    private = re.compile(r"(?<![\w.$~-])/(home|root|Users|tmp|work|mnt|var|private)/")
    texts = [p for p in (ROOT / "results").rglob("*") if p.suffix in (".json", ".jsonl", ".md")]
    assert len(texts) > 20
    for path in texts:
        found = private.search(path.read_text())
        assert found is None, f"{path}: {found}"


def test_workflows_may_read_only():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text()
        assert "permissions:\n  contents: read\n" in text, path
        assert "write" not in text and "pull_request_target" not in text, path


def test_the_page_of_reliability_holds_the_published_table():
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert (ROOT / "results" / "reliability" / "table.md").read_text() in page
