"""What ends a run early."""


class UserError(Exception):
    """Something the user can put right: a bad name, a missing file, a malformed record.

    The scripts print it as one line on stderr and exit with code 2. Its text says which file or argument (and which
    record), what was expected and what to do. Every other exception is a bug and keeps its traceback.
    """


class EditRefused(Exception):
    """An update that must not touch the weights: numbers that are none, a division by nearly zero, an explosion.

    Raised by editors and by the loop that applies their updates; the text says which number is bad. `--on-error`
    decides whether the run stops there or goes on without that update.
    """


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; the text says what is saved and how to go on."""
