"""Formats of facts to edit: every module without a leading underscore that defines EDIT_SET is one.

Those of a folder `edit_sets` with an __init__.py anywhere on PYTHONPATH are found too.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
