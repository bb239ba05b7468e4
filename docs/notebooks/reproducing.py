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
# # Figures from published numbers
#
# `results/` holds the numbers of every published run, not only its picture. Nothing is trained
# here.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Image, Markdown

import experiments
from experiments import sheet, catalog, report
from experiments.harness import figures, ledger, recorded

work = Path(tempfile.mkdtemp())
root = Path(experiments.__file__).parents[1]
published = recorded.find(root / "results")
print(len(published), "published runs")

# %% [markdown]
# ## Redraw a published figure exactly
#
# `draw` needs only the record, so the figure can be reproduced byte for byte, or changed.

# %%
record = recorded.load(root / "results/ssm/memory/cpu")
draw = catalog.get("ssm/memory").module.draw
Image(figures.render(lambda: draw(record), work / "memory.png"), width=700)

# %% [markdown]
# ## A picture of your own
#
# The rows of `metrics.jsonl` are plain dictionaries; here `step` is the order.

# %%
record = recorded.load(root / "results/fourier_density/mixtures/cpu")
print(record.config)
print([*record.rows[0]])

# %%
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for target in record.config["targets"]:
    rows = [row for row in record.rows if row["target"] == target]
    axis.semilogy(
        [row["step"] for row in rows], [row["sample_kl"] for row in rows], "o-", label=target
    )
axis.set(xlabel="order", ylabel="KL divergence (nats)")
_ = axis.legend()
# %% [markdown]
# ## What the results say about the papers
#
# A claim is a statement, the source's value, and a function from a record to a measurement with its
# interval. The verdict follows from these alone.

# %%
rows = report.rows(published, ["fourier_density/mixtures", "ssm/structure"])
print(ledger.brief(rows))

# %%
Markdown(report.summary(report.rows(published)))

# %% [markdown]
# ## All at once
#
# `reproduce` puts the figures of its runs on one sheet; here is such a sheet of published figures.

# %%
pictures = [
    (one.data["experiment"], one.directory / "figure.png")
    for one in published
    if one.data["experiment"] in ("ssm/memory", "diffusion/samplers", "attention/cache")
]
Image(sheet.contact_sheet(pictures, work / "sheet.png"), width=900)
