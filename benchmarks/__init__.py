"""Speed, measured in one run against the naive twins of tests/reference: python -m benchmarks [NAME ...]."""

import core  # noqa: F401  (before torch: says how threads wait, as for the scripts)
