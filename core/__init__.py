"""What everything else stands on. Imports no editor, no task, nothing above it."""

import os

# Read when torch is loaded. A thread that waits for another one spins by default for milliseconds, which beside other
# work on the same cores takes several times as long; asleep at once, it is late for the next of many small operations.
# GNU's library can spin for a fraction of a millisecond first (docs/speed.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
