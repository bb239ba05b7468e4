"""State-space models: HiPPO memories, their discretisations, and the kernels of their convolutions.

Source: Gu, Dao, Ermon, Rudra, Ré, "HiPPO: Recurrent Memory with Optimal Polynomial Projections"
(arXiv 2008.07669); Su Jianlin's posts https://kexue.fm/archives/10114,
https://kexue.fm/archives/10137 and https://kexue.fm/archives/10162.
"""

from ssm import (
    bases,
    cauchy,
    chunks,
    convolution,
    diagonal,
    discretize,
    dplr,
    dss,
    hippo,
    history,
    layers,
    legs,
    online,
    recurrence,
    s4,
    s4d,
    s5,
    spectrum,
    stack,
    vandermonde,
)

__all__ = [
    "bases",
    "cauchy",
    "chunks",
    "convolution",
    "diagonal",
    "discretize",
    "dplr",
    "dss",
    "hippo",
    "history",
    "layers",
    "legs",
    "online",
    "recurrence",
    "s4",
    "s4d",
    "s5",
    "spectrum",
    "stack",
    "vandermonde",
]
