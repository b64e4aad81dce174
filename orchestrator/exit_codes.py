"""What a command tells the shell, and the errors behind each code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED_TRIALS = 1
    BAD_INPUT = 2
    INFRASTRUCTURE = 3
    """Also an error of the program itself, whose traceback is shown: never taken for 1."""
    INTERRUPTED = 130


class InputError(ValueError):
    """Input that cannot be used; nothing was started. The message says what to do."""


class InfrastructureError(RuntimeError):
    """The machine, Ray or the disk failed; the same command goes on once that is mended."""


class Interrupted(BaseException):
    """A person or the system asked to stop; finished cells are in the ledger.

    No ``Exception``, so that nobody on the way takes it for a failure, and no
    ``KeyboardInterrupt``, which the command-line library would answer itself.
    """
