"""Boolean attention masks; True means "may be attended to"."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def causal(
    query_positions: Int[Array, "*#batch queries"],
    key_positions: Int[Array, "*#batch keys"],
    window: int | None = None,
) -> Bool[Array, "... queries keys"]:
    """Keys at or before the query: 0 <= i - j, and i - j < window when a window is given.

    The window counts the query itself, as Hugging Face's and Mistral's do.

    Raises:
        ValueError: window < 1.

    Source: https://kexue.fm/archives/10091, equation 1 (i <= t); Jiang et al., Mistral 7B
    (arXiv 2310.06825), for the window.
    """
    if window is not None and window < 1:
        raise ValueError(f"window: expected at least 1 key, got {window}")
    distance = query_positions[..., :, None] - key_positions[..., None, :]
    keep = distance >= 0
    return keep if window is None else keep & (distance < window)


def positions_of(x: Float[Array, "B T d"], positions: Array | None) -> Int[Array, "B T"]:
    """Positions [B, T]: those given, [B, T] or [1, T] for all sequences; 0..T-1 if None.

    Raises:
        ValueError: positions of another shape, or a mask in their place.
    """
    if positions is None:
        positions = jnp.arange(x.shape[1])[None]
    if positions.dtype == bool:
        raise ValueError("positions: expected numbers, got booleans; a mask is `mask=`")
    if positions.shape not in (x.shape[:2], (1, x.shape[1])):
        raise ValueError(f"positions: expected [B, T] = {x.shape[:2]}, got {positions.shape}")
    return jnp.broadcast_to(positions, x.shape[:2])


def combined(
    positions: Int[Array, "B T"], mask: Array | None, window: int | None = None
) -> Bool[Array, "B T T"]:
    """The causal mask of a sequence and a further one, [B, S] over keys or [B, T, S]; S is T.

    Raises:
        ValueError: a mask of another shape, or one of floats.

    Source: https://kexue.fm/archives/10091, equation 1 (i <= t), over fewer keys.
    """
    keep = causal(positions, positions, window)
    if mask is None:
        return keep
    wide = mask[:, None, :] if mask.ndim == 2 else mask
    sizes = zip(wide.shape, keep.shape, strict=False)
    if wide.ndim != 3 or any(n not in (1, size) for n, size in sizes):
        shapes = f"[B, S] = {keep.shape[::2]} or [B, T, S] = {keep.shape}"
        raise ValueError(f"mask: expected {shapes}, got {mask.shape}")
    if jnp.issubdtype(mask.dtype, jnp.floating):
        raise ValueError(f"mask: expected booleans, True where a key may be seen, got {mask.dtype}")
    return keep & (wide != 0)


def valid(lengths: Int[Array, "*batch"], size: int) -> Bool[Array, "*batch size"]:
    """The first `lengths` of `size` slots: right-padded prompts, live slots of a cache."""
    return jnp.arange(size) < lengths[..., None]
