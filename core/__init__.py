"""What everything else stands on. Imports no editor, no task, nothing above it."""

import os

# Read when torch is loaded. Threads that wait for another one spin by default: beside other work on the same cores that
# takes several times as long, on free ones it gains nothing (docs/speed.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
