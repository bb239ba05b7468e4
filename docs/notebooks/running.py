# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Experiments, from a notebook
#
# The command line and this notebook call the same functions. An experiment has a frozen
# configuration, presets, a `main`, and claims; a run is a folder.

# %%
import json
import tempfile
from pathlib import Path

from IPython.display import Image, Markdown

from experiments import catalog, commands, sweeps
from experiments.harness import config as configs

work = Path(tempfile.mkdtemp())
print(len(catalog.names()), "experiments, among them")
for name in catalog.names()[::8]:
    print(f"{name:24} {catalog.get(name).summary[:60]}")

# %% [markdown]
# ## One run
#
# The same as `python -m experiments run fourier_density/mixtures --orders 4 8 16`.

# %%
record = commands.run(
    "fourier_density/mixtures", "quick", ["--orders", "4", "8", "16"], work / "mixtures"
)
Image(work / "mixtures" / "figure.png")

# %%
Markdown((work / "mixtures" / "table.md").read_text())

# %% [markdown]
# What it wrote can be read back at any time; figures are drawn from the recorded numbers alone.

# %%
print(sorted(path.name for path in (work / "mixtures").iterdir()))
print(json.loads((work / "mixtures" / "run.json").read_text())["versions"])
record.rows[0]

# %% [markdown]
# ## What a configuration is
#
# Any field can be changed by its name. Mistakes are refused before anything runs.

# %%
experiment = catalog.get("attention/language_model")
config = configs.parse(
    experiment.preset("quick"), ["--model.mixer", "mla", "--training.steps", "20"]
)
print(config.model.mixer, config.training.steps)
try:
    configs.parse(experiment.preset("quick"), ["--model.mixr", "mla"])
except Exception as error:
    print(error)

# %% [markdown]
# ## An experiment of your own
#
# `new` writes a working file; nothing has to be registered.

# %%
commands.new(work / "mine.py")
print((work / "mine.py").read_text())

# %%
mine = commands.run(str(work / "mine.py"), "quick", [], work / "mine")
mine.result

# %% [markdown]
# ## A grid
#
# Comma-separated values and ranges define a grid; every cell is a run that can be resumed.

# %%
grid = sweeps.parse(str(work / "mine.py"), "quick", ["--seed", "0:3"])
sweeps.run(grid, work / "grid", jobs=2, cluster=None, options=[])
