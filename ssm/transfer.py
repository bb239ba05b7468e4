"""Transfer functions: conversions between the forms of a system, and systems as RTF.

`conversions` has the forms, `reduction` the way from any system of this package to an RTF.
"""

from ssm.conversions import (
    FORMS,
    frequency_response,
    from_modal,
    impulse_response,
    to_modal,
    to_state_space,
    to_transfer_function,
    zeros,
)
from ssm.reduction import (
    METHODS,
    Reduction,
    impulse_responses,
    reduce,
    reductions,
    state_space,
    to_rtf,
)

__all__ = [
    "FORMS",
    "METHODS",
    "Reduction",
    "frequency_response",
    "from_modal",
    "impulse_response",
    "impulse_responses",
    "reduce",
    "reductions",
    "state_space",
    "to_modal",
    "to_rtf",
    "to_state_space",
    "to_transfer_function",
    "zeros",
]
