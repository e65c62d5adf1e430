"""Editing methods: every file without a leading underscore that defines EDITOR is one."""
