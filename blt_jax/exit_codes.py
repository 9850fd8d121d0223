"""How a command ends, told by its exit code.

Scripts and schedulers act on these: 75 asks to be started again, the others want a
person first. An exception class that means one of them says so by an attribute
`exit_code`; any other mistake of the user's is 2, and a mistake of ours 1, with a
traceback.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    FINISHED = 0
    WRONG_USE = 2  # arguments, configuration, files: the message says how to mend it
    NO_GOOD_CHECKPOINT = 3  # every checkpoint is damaged, or the one asked for is
    IN_USE = 4  # another run works in this directory
    NOT_FINITE = 5  # the loss or a gradient became NaN or infinite
    NOT_SAVED = 6  # a checkpoint could not be written: full disk, read-only folder
    WORKER_LOST = 7  # a data worker died, or gave nothing for too long
    INTERRUPTED = 75  # asked to stop, all saved: the same command goes on (EX_TEMPFAIL)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that an error asks for."""
    return ExitCode(getattr(error, "exit_code", ExitCode.WRONG_USE))
