"""How a deep state-space model is divided among devices: by channels, S5 by states.

Channels of a diagonal, low-rank or rational mixer do not interact, so each device runs its own.
The matrix after the mixer mixes them: it is sharded by rows and ends in one sum over devices. S5's
states read all channels, but do not interact with each other.
"""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

COLUMNS, ROWS = (None, "model"), ("model", None)
_CHANNELS: Rules = (
    (r"\['(D|direct|log_dt|slack)'\]$", ("model",)),
    (r"\['P'\]$", ("model", None, None, None)),
    (r"\['(B|C|W)'\]$", ("model", None, None)),
    (r"\['(frequency|log_decay|numerator|denominator)'\]$", ROWS),
)
_STATES: Rules = (
    (r"\['(frequency|log_decay|log_dt)'\]$", ("model",)),
    (r"\['B'\]$", ("model", None, None)),
    (r"\['C'\]$", (None, "model", None)),
)
_MIXERS: dict[str, Rules] = {
    "s5": _STATES,
    "mamba": (
        (r"\['select'\]$", ROWS),
        (r"\['step'\]\['matrix'\]$", COLUMNS),
        (r"\['step'\]\['bias'\]$", ("model",)),
        (r"\['convolution'\]\['weight'\]$", COLUMNS),
        (r"\['convolution'\]\['bias'\]$", ("model",)),
        *_CHANNELS,
    ),
    "mamba2": (),  # one matrix makes streams of several widths
}
_AROUND: Rules = (
    (r"\['mixer'\].*\['output'\]$", ROWS),
    (r"\['out'\]\['matrix'\]$", ROWS),
    (r"\['head'\]\['matrix'\]$", ROWS),
)


def rules(mixer: str) -> Rules:
    """Patterns of names of weights, and the mesh axis of each of their last axes.

    Args:
        mixer: the name of its module, "s4", "s4d", "dss", "rtf", "gated_rtf", "s5", "mamba",
            "mamba2".

    Returns:
        Pairs of a regular expression on `jax.tree_util.keystr` and axes; the first match applies.
        Weights without a match are replicated, as are axes that the mesh does not divide.
    """
    return (*_MIXERS.get(mixer, _CHANNELS), *_AROUND)
