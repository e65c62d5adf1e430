"""Fetch and check what runs need: python prepare.py model NAME | data | stats MODEL | check-data DIR | doctor."""

from core.script import script
from inputs import cli

if __name__ == "__main__":
    script(cli.main)
