"""Errors that the command line shows as one line on standard error."""


class ExperimentError(Exception):
    """Something the user can mend: names what, what was expected, what was got, the remedy."""

    exit_code = 1


class UsageError(ExperimentError):
    """The command line itself is wrong."""

    exit_code = 2


class DataError(ExperimentError):
    """A data set is missing or unreadable."""


class NonFiniteError(ExperimentError):
    """Training produced NaN or infinity."""


class Interrupted(ExperimentError):
    """A signal asked the run to stop; its work is saved and the same command resumes it."""

    exit_code = 75


class HostError(ExperimentError):
    """Another process of a distributed run is missing, dead or hung."""

    exit_code = 69
