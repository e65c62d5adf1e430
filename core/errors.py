"""The one exception a user is meant to see."""


class UserError(Exception):
    """Something the user can put right: a bad name, a missing file, a malformed record.

    The scripts print it as one line on stderr and exit with code 2. Its text says which file or argument (and which
    record), what was expected and what to do. Every other exception is a bug and keeps its traceback.
    """
