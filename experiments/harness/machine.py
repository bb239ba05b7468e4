"""What a run finds on its machine: versions, devices, memory, room."""

import platform
import resource
import shutil
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "kexue-jax")


def environment() -> dict[str, Any]:
    """Versions and devices."""
    import jax

    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    return {"versions": versions, "devices": devices}


def peak_memory() -> int:
    """Peak resident memory of the process, or of a device if it reports more, in bytes."""
    import jax

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host *= 1 if sys.platform == "darwin" else 1024
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max([host, *(entry.get("peak_bytes_in_use", 0) for entry in stats)])


def free_disk(directory: Path) -> int:
    """Free bytes on the disk that would hold a directory."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def hangup() -> list[signal.Signals]:
    """The signal of a terminal that is closed, unless it is ignored, as below nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [] if ignored else [signal.SIGHUP]
