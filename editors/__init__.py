"""Editing methods: every module or package without a leading underscore that defines EDITOR is one.

Those of a folder `editors` with an __init__.py anywhere on PYTHONPATH are found too.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
