"""What is measured: cases with a known truth, what is computed from a fit, and the table of it all.

To add a case, add an entry to `CASES` in `flows.benchmarks.cases`; nothing else changes.
"""
