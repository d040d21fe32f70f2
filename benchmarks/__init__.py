"""What this library costs: against plain drivers, against its peers, under concurrency, as a database grows.

Run `python -m benchmarks` from the repository's root; it writes `docs/performance.md`.
"""
