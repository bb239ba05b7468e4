"""RTF: state spaces given by their rational transfer functions.

Notation
    H, N    channels, order (size of the state)
    a, b    denominator [G, N], numerator [H, N]; H/G consecutive channels share one denominator
    h       direct term [H]
    L, r    length (period) of the trained kernel; it is evaluated on the circle |z^-1| = r
    s       state of the recurrence [H, N]

    H(z) = h + (b_1 z^-1 + ... + b_N z^-N) / (1 + a_1 z^-1 + ... + a_N z^-N)
    y_t  = h u_t + v_t,   v_t = sum_k b_k u_{t-k} - a_k v_{t-k}

The kernel K is the power series of H in z^-1. At the L-th roots of unity H is a quotient of two
FFTs, so L values of the kernel cost O(L log L), whatever N is. But L points alias: they give the
sums K_l + K_{l+L} + K_{l+2L} + ... instead of K_l. RTF therefore trains b~, the numerator of the
first L values alone, which is to C (1 - A^L) what b is to C. One value still wraps around: b~
stands for the values l = 1..L, and l = L is added to l = 0. The convolution and the recurrence here
both include it there.

Given b~, b is (1, a) * (K_1, .., K_N), a convolution cut to N terms. The recurrence is the
transposed direct form II, whose state depends on the last N inputs u and outputs v only,

    s_i = sum_{j >= i} b_j u_{t+i-j} - a_j v_{t+i-j},    v_{t+1} = s_1,

so the state after a prompt needs no recurrence and no intermediate states.

Source: Parnichkun et al., "State-Free Inference of State-Space Models: The Transfer Function
Approach" (arXiv 2405.06147); https://kexue.fm/archives/10180, whose generating function is that
of `delay` = 0: (b_1 + b_2 w + ...) / (1 + a_1 w + ...) with w = z^-1, one step earlier.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssm import checks, convolution, diagonal, signals
from ssm.direct_form import Step, init_state, prefill, prepare, step
from ssm.fraction import System, check_form, exact, kernel, truncated
from ssm.mixer import Mixer, no_steps, over_systems
from ssm.stability import aliasing, damped, poles, spectral_margin

__all__ = [
    "CONSTRAINTS",
    "INITS",
    "Config",
    "Step",
    "System",
    "aliasing",
    "apply",
    "damped",
    "damped_params",
    "exact",
    "from_coefficients",
    "init",
    "init_state",
    "kernel",
    "mixer",
    "poles",
    "prefill",
    "prepare",
    "spectral_margin",
    "step",
    "system",
    "truncated",
]

INITS = ("zeros", "xavier", "montel", "uniform")
CONSTRAINTS = ("none", "l1")
NUMERATORS = ("truncated", "exact")


def from_coefficients(
    numerator: Any,
    denominator: Any,
    direct: Any,
    length: int | None = None,
    *,
    delay: int = 1,
    radius: float = 1.0,
) -> System:
    """A system from its coefficients, for instance those of a publication.

    Args:
        numerator: real [H, N], b_1..b_N; with `length` these are the coefficients of b~.
        denominator: real [H, N] or [G, N], G a divisor of H; a_1..a_N, without the leading 1.
        direct: real [H], the direct term h.
        length: L, if the numerator is b~ for kernels up to L; None if it is b (infinite response).
        delay: 1 as in the paper; 0 as in the post: b_1 then acts on the present input.
        radius: r as in `truncated`; it must be 1 without a `length`.

    Warns:
        UserWarning: a pole lies so close to one of the L points that the denominator nearly
            vanishes there: that value of the spectrum is then huge, and wrong.

    Raises:
        ValueError: shapes that do not fit, complex or (unless traced) non-finite values,
            N >= length, a delay other than 0 or 1, a radius outside (0, 1].

    >>> one = from_coefficients([[1.0, 0.0]], [[-0.5, 0.0]], [3.0])
    >>> kernel(one, 4)[0].round(4).tolist()
    [3.0, 1.0, 0.5, 0.25]

    Source: arXiv 2405.06147, equation 4; https://kexue.fm/archives/10180, equation 8 (`delay` = 0).
    """
    shape, rows = np.shape(numerator), np.shape(denominator)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"numerator: expected shape [H, N], got {shape}")
    if len(rows) != 2 or rows[1] != shape[1] or rows[0] < 1 or shape[0] % rows[0]:
        raise ValueError(
            f"denominator: expected shape [G, {shape[1]}] with G a divisor of {shape[0]}, "
            f"got {rows}"
        )
    for name, value in (("numerator", numerator), ("denominator", denominator), ("direct", direct)):
        if np.iscomplexobj(value):
            raise ValueError(f"{name}: expected real numbers")
    shapes = {"numerator": shape, "denominator": rows, "direct": shape[:1]}
    diagonal.check_values(shapes, numerator=numerator, denominator=denominator, direct=direct)
    check_form(shape[1], length, delay, radius)
    parts = (signals.real(part) for part in (numerator, denominator, direct))
    system = System(*parts, length=length, delay=delay, radius=float(radius))
    if length is not None and signals.concrete(system.denominator) is not None:
        _warn(system)
    return system


def _warn(system: System) -> None:
    margin, where = spectral_margin(system)
    eps = np.finfo(system.denominator.dtype).eps
    worst = int(np.argmin(margin))
    if margin[worst] < 1e3 * eps:
        warnings.warn(
            f"denominator: row {worst} nearly vanishes ({margin[worst]:.1e} of its size) at bin "
            f"{where[worst]} of {system.length}: a pole lies there, and values of the kernel are "
            "wrong; another length or a radius below 1 moves the points away",
            stacklevel=3,
        )


def apply(system: System, u: Any) -> Array:
    """The output for a whole signal, starting from the zero state, by convolution.

    y_l = sum_j K_j u_{l-j}.

    Args:
        u: real [..., L, H].

    Returns:
        [..., L, H].

    Raises:
        ValueError: an empty u or one longer than the stored length, a wrong H, complex values.

    Source: arXiv 2405.06147, equation 1 and algorithm 1; https://kexue.fm/archives/10180, equations
    2 and 18.
    """
    checks.system(system, System)
    u = signals.signal(u, system.direct.shape[0], system.length)
    return signals.filtered(u, kernel(system, u.shape[-2]))


@dataclasses.dataclass(frozen=True)
class Config:
    """A mixer of H channels.

    Attributes:
        channels: H.
        length: L, above N. A "truncated" numerator is trained for it; `apply` takes no more steps.
        size: N, the order: number of states of a channel.
        denominators: G, a divisor of H; None for one denominator per channel.
        init: of numerator and denominator, one of `INITS`: "zeros" (an impulse, direct = 1);
            "xavier", uniform in +-1/sqrt(N), often unstable; "montel", uniform in +-1/N, stable;
            "uniform" in (0, 1), for use with "l1". Except for "zeros", direct is standard normal.
        constraint: "none"; or "l1": the denominator is a / ((1 + 1e-6) sum |a| + |slack| + 1e-6).
            Its sum of moduli below 1 keeps all poles inside the unit circle (Montel), perhaps
            close to it (see `radius`). It costs accuracy in the paper's ablation, table 5.
        numerator: "truncated", b~ as in the paper, or "exact", b: kernels of any length, which
            cost O(N L), step by step.
        delay: of the coefficient b_1, in steps: 1 as in the paper, 0 as in the post.
        radius: r of the circle for b~ (see `truncated`), 1 in the paper. If gradients jump during
            training, poles may lie close to the circle: r = 0.1^(1/L) makes them harmless.
        bidirectional: adds a second kernel, from the end; such a mixer cannot be streamed.
    """

    channels: int
    length: int
    size: int = 64
    _: dataclasses.KW_ONLY
    denominators: int | None = None
    init: str = "zeros"
    constraint: str = "none"
    numerator: str = "truncated"
    delay: int = 1
    radius: float = 1.0
    bidirectional: bool = False

    def __post_init__(self):
        checks.sizes(self, "channels", "length", "size")
        for name, known in (
            ("init", INITS),
            ("constraint", CONSTRAINTS),
            ("numerator", NUMERATORS),
        ):
            if getattr(self, name) not in known:
                expected = ", ".join(known)
                raise ValueError(f"{name}: expected one of {expected}, got {getattr(self, name)!r}")
        groups = self.denominators
        if groups is not None and (groups < 1 or self.channels % groups):
            raise ValueError(
                f"denominators: expected a divisor of the {self.channels} channels, got {groups}"
            )
        stored = self.numerator == "truncated"
        check_form(self.size, self.length, self.delay, self.radius)
        if not stored and self.radius != 1:
            raise ValueError("radius: an exact numerator has none, expected 1")


def init(key: Array, config: Config) -> dict[str, Any]:
    """Real arrays: numerator [H, N], denominator [G, N], direct [H]; slack [G] with "l1".

    Bidirectional mixers have `backward`, another such dictionary.
    """
    checks.kind(config, Config)
    groups = config.channels if config.denominators is None else config.denominators
    low, high = {
        "zeros": (0.0, 0.0),
        "xavier": (-(config.size**-0.5), config.size**-0.5),
        "montel": (-1.0 / config.size, 1.0 / config.size),
        "uniform": (0.0, 1.0),
    }[config.init]

    def one(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 4)
        shapes = ((config.channels, config.size), (groups, config.size))
        b, a = (
            jax.random.uniform(k, s, minval=low, maxval=high)
            for k, s in zip(keys, shapes, strict=False)
        )
        direct = jnp.ones(config.channels)
        if config.init != "zeros":
            direct = jax.random.normal(keys[2], direct.shape)
        params = {"numerator": b, "denominator": a, "direct": direct}
        if config.constraint == "l1":
            params["slack"] = jax.random.uniform(keys[3], (groups,))
        return params

    if not config.bidirectional:
        return one(key)
    ahead, back = jax.random.split(key)
    return one(ahead) | {"backward": one(back)}


def system(params: dict[str, Any], config: Config) -> System:
    """The system that the parameters stand for; of a bidirectional mixer, its forward one.

    Source: arXiv 2405.06147, equation 17 and appendix B.2 for "l1".
    """
    checks.kind(config, Config)
    a = params["denominator"]
    if config.constraint == "l1":
        # The first 1e-6 is ours: without it rounding may leave a sum of moduli of 1.
        size = (1.0 + 1e-6) * jnp.sum(jnp.abs(a), axis=-1) + jnp.abs(params["slack"]) + 1e-6
        a = a / size[:, None]
    stored = config.numerator == "truncated"
    return System(
        params["numerator"],
        a,
        params["direct"],
        length=config.length if stored else None,
        delay=config.delay,
        radius=config.radius,
    )


def damped_params(params: dict[str, Any], config: Config, factor: float) -> dict[str, Any]:
    """Parameters of the system `damped` by a factor: K_l times factor^l, poles times factor.

    For layers of a stack: `jax.vmap(lambda p: damped_params(p, config, 0.98))(params["layers"]
    ["mixer"])`.

    Raises:
        ValueError: a constraint other than "none", a bidirectional mixer, a delay of 0.

    Source: derived from https://kexue.fm/archives/10180, equation 8, at z times the factor.
    """
    if config.constraint != "none" or config.bidirectional or not config.delay:
        raise ValueError(
            "config: expected no constraint, one direction and a delay of 1, got "
            f"{config.constraint!r}, {config.bidirectional}, {config.delay}"
        )
    new = damped(exact(system(params, config)), factor)
    if config.numerator == "truncated":
        new = truncated(new, config.length, config.radius)
    return {"numerator": new.numerator, "denominator": new.denominator, "direct": new.direct}


def mixer(config: Config) -> Mixer:
    """The six functions of a trainable RTF layer (see `mixer.Mixer`).

    >>> layer = mixer(Config(channels=2, length=8, size=4))
    >>> params = layer.init(jax.random.key(0))
    >>> layer.apply(params, jnp.ones((1, 5, 2))).shape
    (1, 5, 2)
    """
    checks.kind(config, Config)
    functions = {"apply": apply, "prepare": prepare, "prefill": prefill}
    make = functools.partial(system, config=config)
    if config.bidirectional:
        functions = {"apply": _both, "prepare": no_steps, "prefill": no_steps}
        make = lambda params: (system(params, config), system(params["backward"], config))  # noqa: E731
    return over_systems(
        shape=(config.channels, config.size),
        paired=False,
        init=functools.partial(init, config=config),
        system=make,
        step=step,
        **functions,
    )


def _both(systems: tuple[System, System], u: Any) -> Array:
    """`apply` in both directions; the second acts on later inputs alone."""
    u = signals.signal(u, systems[0].direct.shape[0], systems[0].length)
    kernels = (kernel(one, u.shape[-2]) for one in systems)
    return jnp.moveaxis(convolution.bidirectional(jnp.moveaxis(u, -1, -2), *kernels), -2, -1)
