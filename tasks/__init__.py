"""The tasks: every module without a leading underscore defines `TASK`, a `core.types.Task`."""
