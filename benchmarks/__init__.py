"""Speed and memory, measured: `python -m benchmarks.transport`, `python -m benchmarks.crawl`.

Owns: what is measured beside what, and how. Does not own: anything that is installed; the
peers come with the extra `bench`, and each may be missing.
"""
