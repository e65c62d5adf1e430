"""Formats of facts to edit: every file without a leading underscore that defines EDIT_SET is one."""
