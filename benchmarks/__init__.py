"""Speed, measured in one run against the naive twins of tests/reference: python -m benchmarks [NAME ...]."""
