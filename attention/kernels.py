"""Which program computes causal attention of a whole sequence, and why not the others.

    xla     `scores.causal`: products and softmax as XLA compiles them, anywhere, any shape
    cudnn   `jax.nn.dot_product_attention(implementation="cudnn")`, NVIDIA GPUs
    splash  the Pallas kernel of JAX for TPUs

A kernel that was asked for and cannot serve raises an error with the reason; the default takes the
first that can, and `explain` returns it and the reasons against those before it. Values narrower
than keys (MLA: 128 against 192) are padded with zeros for cuDNN, which takes one width. Masks,
explicit positions and caches are always computed by `scores` and `live`: no kernel here takes
keys of 576 numbers whose first 512 are the values.

Source: https://docs.jax.dev/en/latest/_autosummary/jax.nn.dot_product_attention.html and the
sources of JAX 0.10.2, which state the limits below.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attention import scores

Kernel = Literal["xla", "cudnn", "splash"]
LANES = 128  # TPU: lengths are multiples of it
BLOCKS = (512, 256, 128)


class Device(NamedTuple):
    """What runs the program.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        capability: of an NVIDIA GPU, (9, 0) for Hopper.
    """

    platform: str
    capability: tuple[int, int] | None = None

    @classmethod
    def here(cls) -> "Device":
        """The default device of this process."""
        first = jax.devices()[0]
        found = getattr(first, "compute_capability", None)
        if first.platform != "gpu" or not isinstance(found, str):
            return cls(first.platform)
        major, minor = found.split(".")
        return cls("gpu", (int(major), int(minor)))


class Problem(NamedTuple):
    """Causal attention of queries [B, H, T, d_k] to keys [B, K, T, d_k], values [B, K, T, d_v].

    Attributes:
        time: T.
        key_dim, value_dim: d_k, d_v.
        dtype: of all three.
    """

    time: int
    key_dim: int
    value_dim: int
    dtype: Any


def check(kernel: str | None) -> None:
    """Refuse names that stand for no kernel.

    Raises:
        ValueError: naming those there are.
    """
    if kernel not in (None, *get_args(Kernel)):
        raise ValueError(f"kernel: expected one of {get_args(Kernel)} or None, got {kernel!r}")


def refuse_masks(kernel: str | None) -> None:
    """Refuse masks and explicit positions for kernels without them.

    Raises:
        ValueError: naming the kernel.
    """
    if kernel not in (None, "xla"):
        raise ValueError(f"kernel: {kernel} takes no mask and no positions; use None or 'xla'")


def refusal(kernel: str, problem: Problem, device: Device) -> str | None:
    """Why a kernel cannot serve; None if it can."""
    check(kernel)
    return {"xla": lambda *_: None, "cudnn": _cudnn, "splash": _splash}[kernel](problem, device)


def _cudnn(problem: Problem, device: Device) -> str | None:
    if device.platform != "gpu" or device.capability is None:
        return f"expected an NVIDIA GPU, got {device.platform}"
    if device.capability < (8, 0):
        return f"expected compute capability 8.0 or later, got {device.capability}"
    if jnp.dtype(problem.dtype) not in (jnp.float16, jnp.bfloat16):
        return f"expected float16 or bfloat16, got {jnp.dtype(problem.dtype).name}"
    most = 256 if device.capability >= (9, 0) else 128
    if problem.value_dim > problem.key_dim:
        return f"expected values of at most {problem.key_dim}, as the keys, got {problem.value_dim}"
    if problem.key_dim > most or problem.key_dim % 8:
        return f"expected keys of a multiple of 8 up to {most}, got {problem.key_dim}"
    return _cudnn_itself(problem) if device == Device.here() else None


def _cudnn_itself(problem: Problem) -> str | None:
    """What JAX says when it is asked: its cuDNN may be missing or too old."""
    keys = jax.ShapeDtypeStruct((1, 1, problem.time, problem.key_dim), problem.dtype)
    values = jax.ShapeDtypeStruct((1, 1, problem.time, problem.value_dim), problem.dtype)
    try:
        jax.eval_shape(lambda q, k, v: cudnn(q, k, v, None, 1.0), keys, keys, values)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def _splash(problem: Problem, device: Device) -> str | None:
    if device.platform != "tpu":
        return f"expected a TPU, got {device.platform}"
    if problem.time % LANES:
        return f"expected a length that is a multiple of {LANES}, got {problem.time}"
    if jnp.dtype(problem.dtype) not in (jnp.float32, jnp.bfloat16):
        return f"expected float32 or bfloat16, got {jnp.dtype(problem.dtype).name}"
    return None


def explain(problem: Problem, device: Device | None = None) -> tuple[Kernel, dict[str, str]]:
    """The kernel that `kernel=None` takes, and why the preferred ones before it cannot serve."""
    device = Device.here() if device is None else device
    reasons = {}
    order: tuple[Kernel, ...] = ("cudnn", "splash")
    for kernel in order:
        reason = refusal(kernel, problem, device)
        if reason is None:
            return kernel, reasons
        reasons[kernel] = reason
    return "xla", reasons


def causal(
    q: Float[Array, "B H T d_k"],
    k: Float[Array, "B K T d_k"],
    v: Float[Array, "B K T d_v"],
    window: int | None = None,
    scale: float | None = None,
    kernel: str | None = None,
) -> Float[Array, "B H T d_v"]:
    """`scores.causal` by the kernel that is asked for, or by the best there is.

    Raises:
        ValueError: the kernel cannot serve these shapes on this device, and why.
    """
    problem, device = Problem(q.shape[2], q.shape[3], v.shape[3], q.dtype), Device.here()
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    if kernel is None:
        kernel, _ = explain(problem, device)
    reason = refusal(kernel, problem, device)
    if reason is not None:
        raise ValueError(f"kernel: {kernel} cannot serve: {reason}")
    if kernel == "cudnn":
        return cudnn(q, k, v, window, factor)
    if kernel == "splash":
        return splash_causal(q, k, v, window, factor)
    return scores.causal(q, k, v, window, factor)


def cudnn(
    q: Array, k: Array, v: Array, window: int | None, scale: float, implementation: Any = "cudnn"
) -> Array:
    """By `jax.nn.dot_product_attention`: time before heads, one width for keys and values."""
    wide = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, k.shape[-1] - v.shape[-1])))
    turned = (part.swapaxes(1, 2) for part in (q, k, wide))
    sides = None if window is None else (window - 1, 0)
    y = jax.nn.dot_product_attention(
        *turned, scale=scale, is_causal=True, local_window_size=sides, implementation=implementation
    )
    return y.swapaxes(1, 2)[..., : v.shape[-1]]


def splash_causal(
    q: Array, k: Array, v: Array, window: int | None, scale: float, interpret: bool = False
) -> Array:
    """By the kernel for TPUs, which skips what no query sees.

    Args:
        interpret: run it slowly, without a TPU.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # slow to import

    heads, time = q.shape[1:3]
    shape = (time, time)
    one = (
        splash.CausalMask(shape) if window is None else splash.LocalMask(shape, (window - 1, 0), 0)
    )
    block = next(size for size in BLOCKS if time % size == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv")
    names += ("block_kv_dkv_compute", "block_q_dq", "block_kv_dq")
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([one] * heads),
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, block)),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    run: Any = jax.vmap(kernel)
    return run(q * scale, k, v)
