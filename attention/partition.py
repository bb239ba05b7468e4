"""How the weights of a decoder are divided among devices: by heads, hidden units and experts.

Queries, keys, values and the first matrices of MLPs are split by columns, the matrices that follow
them by rows, so that an attention layer and an MLP each end in one sum over devices (all-reduce;
Megatron-LM, arXiv 1909.08053, section 3). Latents of MLA are not split, as every head reads all of
them. Experts are distributed as wholes, embeddings are split by tokens.
"""

import jax

from attention.transformer import TransformerConfig

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

COLUMNS, ROWS = (None, "model"), ("model", None)
AROUND: Rules = (
    (r"\['expert_layers'\]\['ffn'\]\['(gate|up|down)'\]", ("model", None, None)),
    (r"\['ffn'\].*\['(gate|up)'\]", COLUMNS),
    (r"\['ffn'\].*\['down'\]", ROWS),
    (r"\['embedding'\]", ROWS),
    (r"\['head'\]", COLUMNS),
)
"""All but the mixer, for decoders with mixers that are not attention."""


def rules(config: TransformerConfig, size: int) -> Rules:
    """Patterns of weight names, and the mesh axes that the last axes of these weights go to.

    Args:
        size: of the mesh axis "model".

    Returns:
        Pairs of a pattern on `jax.tree_util.keystr` and axes; the first match applies. Weights that
        match none are not split; nor should the caller split axes that `size` does not divide.

    Raises:
        ValueError: `size` does not divide the query heads.

    Source: Shoeybi et al., Megatron-LM (arXiv 1909.08053), section 3.
    """
    heads = config.mixer.n_heads
    if heads % size:
        raise ValueError(f"mesh.model: expected a divisor of {heads} heads, got {size}")
    shared = getattr(config.mixer, "kv_heads", heads)
    keys = COLUMNS if shared % size == 0 else (None, None)
    return (
        (r"\['mixer'\]\['(query|query_up|up)'\]", COLUMNS),
        (r"\['mixer'\]\['(key|value)'\]", keys),
        (r"\['mixer'\]\['output'\]", ROWS),
        *AROUND,
    )


def check_axes(sharding: jax.sharding.Sharding | None) -> None:
    """Refuse explicit axes, `jax.make_mesh`'s default: the decoder leaves layouts to XLA.

    Raises:
        ValueError: a mesh with axes of another type than Auto.
    """
    if isinstance(sharding, jax.sharding.NamedSharding):
        kinds = sharding.mesh.axis_types
        if set(kinds) != {jax.sharding.AxisType.Auto}:
            raise ValueError(
                "sharding: expected a mesh with axis_types=(jax.sharding.AxisType.Auto,) * "
                f"{len(kinds)}, got {', '.join(kind.name for kind in kinds)}"
            )
