"""What densities ask of their arguments: shapes always, values where they are known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_values(coefficients: Any, floor: Any) -> None:
    """Refuse concrete values that no density has; traced ones cannot be looked at.

    Args:
        coefficients: [..., N+1].
        floor: weights that broadcast against [...].
    """
    values, weight = concrete(coefficients), concrete(floor)
    if values is not None and not np.all(np.isfinite(values)):
        raise ValueError("coefficients: expected finite values, got NaN or infinity")
    if values is not None and values.size and not np.all(np.any(values != 0, axis=-1)):
        raise ValueError("coefficients: expected a non-zero a_0..a_N, got all zeros")
    if weight is not None and not np.all((weight >= 0) & (weight < 1)):
        raise ValueError(f"floor: expected a weight in [0, 1), got {floor}")


def joint_shape(shape: tuple[int, ...], **parameters: Any) -> tuple[int, ...]:
    """The batch shape of coefficients and parameters, by broadcasting.

    Raises:
        ValueError: a parameter does not broadcast against the batch.
    """
    for name, value in parameters.items():
        try:
            shape = jnp.broadcast_shapes(shape, np.shape(value))
        except ValueError:
            raise ValueError(
                f"{name}: expected a shape that broadcasts against the batch {shape}, "
                f"got {np.shape(value)}"
            ) from None
    return shape


def concrete(value: Any) -> np.ndarray | None:
    """The value as an array, or None while it is traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None
