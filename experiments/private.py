"""Records without the paths of the machine that made them."""

import json
import re
from pathlib import Path
from typing import Any

from experiments.harness import datasets, manifest, tracking

# Between quotes, as of a shell, a path may hold what ends it elsewhere.
PATH = re.compile(r"""(?<=')/[^'\n]+(?=')|(?<=")/[^"\n]+(?=")|(?<![\w./:~$-])/[^\s'",:;()]+""")


def redacted(file: Path) -> str:
    """The text of a published file.

    Folders that are known (the working one, that of the data, the home) stand by their names.
    Of other absolute paths in `run.json` the last part is kept; the result, which may be a text
    that speaks of paths, is left as it is but for the known ones.
    """
    text = file.read_text()
    if file.suffix == ".json":
        data = json.loads(text)
        kept = {"result": public(data["result"], known=True)} if "result" in data else {}
        return manifest.readable({**public(data), **kept})
    if file.suffix == ".jsonl":
        lines = (public(row, known=True) for row in tracking.read_rows(file))
        return "".join(f"{json.dumps(line)}\n" for line in lines)
    return public(text, known=True)


def public(value: Any, *, known: bool = False) -> Any:
    """Plain JSON types, their strings without private paths.

    Args:
        known: whether only known folders are replaced.
    """
    if isinstance(value, dict):
        return {name: public(part, known=known) for name, part in value.items()}
    if isinstance(value, list):
        return [public(part, known=known) for part in value]
    if not isinstance(value, str):
        return value
    if value.startswith("/") and not any(mark in value for mark in (" /", " -", "\n")):
        return _public_path(value, known)  # a path as a whole, spaces and all
    return PATH.sub(lambda found: _public_path(found[0], known), value)


def _public_path(path: str, known: bool) -> str:
    data = datasets.tfds_folder()
    roots = [("$TFDS_DATA_DIR", data), (".", Path.cwd()), ("~", Path.home())]
    for name, root in roots:
        if root is None or len(root.parts) < 2:  # the root of the file system says nothing
            continue
        if path == str(root) or path.startswith(f"{root}/"):
            return name + path[len(str(root)) :]
    return path if known or len(Path(path).parts) < 3 else f".../{Path(path).name}"
