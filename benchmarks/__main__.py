"""All benchmarks, one after the other; what each prints is kept for the page of performance.

python -m benchmarks [--only ssm diffusion ...] [--torch path/to/python] [--output DIRECTORY]

Nothing else should run meanwhile: the load of the machine at the beginning is written down.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Those whose result belongs to another page, or that need hours, are run by hand.
NAMES = (
    "fourier_density",
    "hippo",
    "ssm",
    "attention",
    "diffusion",
    "unet",
    "language_model_training",
    "checkpoints",
)
ON_GPU = ("gpu",)  # only where there is one
PEERS = ("attention", "unet", "language_model_training")  # take --torch


def processor() -> str:
    """The name of this machine's processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(": ")[2] for line in lines if "model name" in line), "unknown")


def devices() -> dict[str, Any]:
    """Versions and devices, asked for in a process of its own: asking takes a GPU's memory."""
    code = "import json; from experiments.harness import machine; "
    code += "print(json.dumps(machine.environment()))"
    out = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(out.stdout)


def run(name: str, arguments: list[str]) -> dict[str, Any]:
    """Output of one benchmark, and where it ran."""
    load, began = os.getloadavg()[0], time.monotonic()
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, found = round(time.monotonic() - began), devices()
    others = [name for name in found["devices"] if not name.startswith("cpu")]
    return {
        "command": " ".join(["python", f"benchmarks/{name}.py", *arguments]),
        "output": out.stdout.strip(),
        "seconds": seconds,
        "load": round(load, 1),
        "processor": ", ".join([*others, f"{len(os.sched_getaffinity(0))} cores of {processor()}"]),
        "versions": found["versions"],
    }


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=(*NAMES, *ON_GPU), default=NAMES)
    parser.add_argument("--torch", metavar="PYTHON", help="with torch, transformers, diffusers")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        peers = ["--torch", options.torch] if options.torch and name in PEERS else []
        found = run(name, peers)
        if peers:
            found["command"] = str(found["command"]).replace(options.torch, "path/to/python")
        (options.output / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {found['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
