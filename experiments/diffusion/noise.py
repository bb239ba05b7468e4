"""Noise schedules as configurations."""

from dataclasses import dataclass
from typing import Literal

from diffusion import schedules
from diffusion.schedule import Schedule


@dataclass(frozen=True)
class NoiseConfig:
    """A schedule of log-SNR for images of a size; `base` and `base_at_noise` are sides in pixels.

    Attributes:
        kind: "cosine", the same for all sizes; "shifted" by 2 log(base / size) in log-SNR, so that
            images averaged down to `base` are as noisy as under the cosine; "interpolated": so at
            the data end, and with `base_at_noise` in place of `base` at the noise end.
        base, base_at_noise: sides in pixels.
        logsnr_min, logsnr_max: bounds of the cosine schedule, before the shift.
    """

    kind: Literal["cosine", "shifted", "interpolated"] = "cosine"
    base: int | float = 32
    base_at_noise: int | float = 32
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    def __post_init__(self):
        if min(self.base, self.base_at_noise) <= 0:
            raise ValueError(
                f"noise.base, base_at_noise: expected positive numbers, got {self.base}, "
                f"{self.base_at_noise}"
            )
        schedules.cosine(self.logsnr_min, self.logsnr_max)

    def schedule(self, size: int) -> Schedule:
        """For images of `size` pixels a side."""
        cosine = schedules.cosine(self.logsnr_min, self.logsnr_max)
        if self.kind == "cosine":
            return cosine
        if self.kind == "shifted":
            return schedules.shifted(cosine, self.base, size)
        return schedules.interpolated(cosine, self.base, self.base_at_noise, size)
