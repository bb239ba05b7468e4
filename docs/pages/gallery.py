"""All published figures."""

from pathlib import Path

from docs.pages import results
from docs.pages.sources import ROOT
from experiments import catalog, sheet
from experiments.names import RESULTS

PATH = Path("docs/gallery.md")
OVERVIEW = Path("docs/assets/overview.png")
CHOSEN = (
    "fourier_density/mixtures",
    "attention/cache",
    "ssm/memory",
    "diffusion/samplers",
    "ssm/delay",
    "diffusion/upsample_exact",
    "ssm/transfer",
    "diffusion/distill_mixture",
    "attention/recall",
)
HEAD = """# Gallery

The figure of every published run, drawn from its recorded numbers alone. `python -m experiments
figures` draws them again, `reproduce --preset cpu --jobs 2` makes the numbers.

"""


def page() -> str:
    """One picture a run."""
    lines = [HEAD]
    package = ""
    for record in results.records():
        name, preset = record.data["experiment"], record.data["preset"]
        picture = results.picture(record)
        if picture is None:
            continue
        if name.partition("/")[0] != package:
            package = name.partition("/")[0]
            lines += [f"## {package}\n"]
        minutes = record.data["wall_seconds"] / 60
        took = f"{minutes:.0f} min" if minutes >= 1.5 else f"{max(60 * minutes, 1):.0f} s"
        lines += [
            f"### {name.partition('/')[2]}, {preset}\n",
            f"{catalog.get(name).summary}\n",
            f"![{name}](../{picture.as_posix()})\n",
            f"`{record.data['command']}`, {took} on {_devices(record.data['devices'])}\n",
        ]
    return "\n".join(lines).rstrip() + "\n"


def overview() -> Path:
    """The sheet of some figures that the first page shows. Its bytes depend on Pillow's version."""
    pictures = [(name, ROOT / RESULTS / name / "cpu" / "figure.png") for name in CHOSEN]
    return sheet.contact_sheet(pictures, ROOT / OVERVIEW)


def _devices(devices: list[str]) -> str:
    return "; ".join(dict.fromkeys(devices)).replace("cpu: cpu", "a CPU")
