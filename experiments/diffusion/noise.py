"""Noise schedules as configurations."""

from dataclasses import dataclass
from typing import Literal

from diffusion import schedules
from diffusion.schedule import Schedule


@dataclass(frozen=True)
class NoiseConfig:
    """A schedule of log-SNR for images of a size.

    Attributes:
        kind: cosine for all sizes alike; shifted so that images averaged down to `base` pixels
            are as noisy as such images under the cosine; or shifted so at the data end and by
            `base_at_noise` at the noise end.
        base, base_at_noise: pixels a side.
        logsnr_min, logsnr_max: bounds of the cosine, before the shift.
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
