"""How the weights of a U-Net or U-ViT are divided among devices: by channels, heads, hidden units.

The first convolution of a block is cut by output channels and the second by input channels; in a
transformer layer heads and hidden units are divided. Each pair ends in one sum over devices
(Megatron-LM, arXiv 1909.08053, section 3). Matrices that make several streams at once (scales and
shifts; queries, keys and values of the U-Net's attention) are cut by rows.
"""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

COLUMNS, ROWS = (None, "model"), ("model", None)
RULES: Rules = (
    (r"\['Block_0'\]\['Conv_0'\]\['kernel'\]", (None, None, None, "model")),
    (r"\['Block_0'\]\['Conv_0'\]\['bias'\]", ("model",)),
    (r"\['Block_0'\]\['Conv_1'\]\['kernel'\]", (None, None, "model", None)),
    (r"\['Block_0'\].*\['Dense_\d'\]\['kernel'\]", ROWS),
    (r"\['Layer_0'\].*\['(query|key|value)'\]\['kernel'\]", (None, "model", None)),
    (r"\['Layer_0'\].*\['(query|key|value)'\]\['bias'\]", ("model", None)),
    (r"\['Layer_0'\].*\['out'\]\['kernel'\]", ("model", None, None)),
    (r"\['Layer_0'\]\['Dense_1'\]\['kernel'\]", COLUMNS),
    (r"\['Layer_0'\]\['Dense_1'\]\['bias'\]", ("model",)),
    (r"\['Layer_0'\]\['Dense_[02]'\]\['kernel'\]", ROWS),
)


def rules(heads: int, size: int) -> Rules:
    """Patterns of names of weights, and the mesh axis of each of their last axes.

    Args:
        heads: of the layers of a U-ViT; 0 where there are none.
        size: of the mesh axis "model".

    Returns:
        Pairs of a regular expression on `jax.tree_util.keystr` and axes; the first match applies.
        Weights without a match are replicated, as are axes that `size` does not divide.

    Raises:
        ValueError: `size` does not divide `heads`.

    Source: Megatron-LM (arXiv 1909.08053), section 3.
    """
    if heads % size:
        raise ValueError(f"mesh.model: expected a divisor of {heads} heads, got {size}")
    return RULES
