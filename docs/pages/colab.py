"""The notebook of the library as one for Colab: installation in front, cells without outputs."""

import json
from pathlib import Path

import jupytext

from docs.pages.sources import ROOT

PATH = Path("docs/notebooks/colab.ipynb")
SOURCE = Path("docs/notebooks/library.py")
INTRODUCTION = """\
# kexue-jax on Colab

The first cell installs the project where it is not yet. Set `SOURCE` to what pip shall take: the
address of the repository (`git+https://...`), or a wheel that you have uploaded (`python -m build
--wheel` makes one). With a GPU at hand, JAX for CUDA comes with it. Runtime, Restart session, if
Colab says that packages were loaded before.
"""
INSTALL = """\
import importlib.util
import shutil
import subprocess
import sys

SOURCE = ""  # "git+https://..." or "kexue_jax-0.1.0-py3-none-any.whl"

if importlib.util.find_spec("fourier_density") is None:
    if not SOURCE:
        raise SystemExit("set SOURCE above to the project's address or to a wheel")
    wanted = [SOURCE if "://" not in SOURCE else f"kexue-jax @ {SOURCE}"]
    if shutil.which("nvidia-smi"):
        wanted.append("jax[cuda12]>=0.10,<0.12")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

import jax

jax.devices()"""


def page() -> str:
    """The notebook as JSON, the same whenever it is made."""
    notebook = jupytext.reads((ROOT / SOURCE).read_text(), fmt="py:percent")
    cells = [_cell("markdown", INTRODUCTION), _cell("code", INSTALL)]
    cells += [_cell(cell.cell_type, cell.source) for cell in notebook.cells]
    whole = {
        "cells": [{"id": f"cell-{i}", **cell} for i, cell in enumerate(cells)],
        "metadata": {
            "accelerator": "GPU",
            "colab": {"name": "kexue-jax", "provenance": []},
            "kernelspec": {"display_name": "Python 3", "name": "python3"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "metadata": {}, "source": text.strip()}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell
