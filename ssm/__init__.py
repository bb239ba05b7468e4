"""State-space models: the memory of HiPPO and its discretisations.

Source: Gu, Dao, Ermon, Rudra, Ré, "HiPPO: Recurrent Memory with Optimal Polynomial Projections"
(arXiv 2008.07669); Su Jianlin's posts https://kexue.fm/archives/10114 and
https://kexue.fm/archives/10137.
"""

from ssm import bases, discretize, hippo, history, legs, online

__all__ = ["bases", "discretize", "hippo", "history", "legs", "online"]
