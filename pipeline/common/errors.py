"""Errors for the person at the command line: what is wrong, where, and what to do. Each carries its exit code."""


class UserError(Exception):
    """An error whose message is all that the user needs; printed without a traceback."""

    exit_code = 1


class UsageError(UserError):
    """Wrong usage or configuration: names the key, the value, what is allowed, and the nearest right name."""

    exit_code = 2


class DivergenceError(UserError):
    """The numbers of a training are no longer finite, several optimizer steps in a row or in its weights."""


class InputError(UserError):
    """An input or an earlier stage is missing or broken: names which, and the command that makes it."""

    exit_code = 3
