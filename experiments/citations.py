"""BibTeX of what an experiment reproduces: the papers and posts that it names, and this project.

`references.bib` has an entry "arxiv:<id>" or "kexue:<number>" for each of them.
"""

import re
from functools import cache
from importlib import metadata
from pathlib import Path

from experiments import catalog

FILE = Path(__file__).with_name("references.bib")
PAPER = re.compile(r"\b\d{4}\.\d{5}\b")
POST = re.compile(r"archives/(\d+)")
PROJECT = """\
@software{{kexue-jax,
  title = {{kexue-jax}},
  author = {{{{The kexue-jax authors}}}},
  version = {{{version}}},
  note = {{Fourier densities, attention, diffusion and state-space models in JAX}}
}}"""


@cache
def entries() -> dict[str, str]:
    """BibTeX by key."""
    found = re.findall(r"^(@\w+\{([^,]+),\n.*?^\})", FILE.read_text(), re.MULTILINE | re.DOTALL)
    return {key: text for text, key in found}


def keys(experiment: catalog.Experiment) -> list[str]:
    """Keys of what its docstring and the sources of its claims name, posts first."""
    text = "\n".join([experiment.module.__doc__ or "", *(c.source for c in experiment.claims)])
    posts = [f"kexue:{number}" for number in POST.findall(text)]
    return list(dict.fromkeys([*posts, *(f"arxiv:{number}" for number in PAPER.findall(text))]))


def bibtex(names: list[str]) -> str:
    """Entries of experiments, each once, and that of the project, which is all without a name."""
    wanted = dict.fromkeys(key for name in names for key in keys(catalog.get(name)))
    known = entries()
    bare = [f"% {name}: names no paper" for name in names if not keys(catalog.get(name))]
    missing = [f"% {key}: not among the project's references" for key in wanted if key not in known]
    found = [known[key] for key in wanted if key in known]
    return "\n\n".join(
        [*bare, *missing, *found, PROJECT.format(version=metadata.version("kexue-jax"))]
    )
