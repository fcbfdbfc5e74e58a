"""Benchmarks: `python -m benchmarks.bench_<word> --out DIR` measures one word against its peers and writes CSV rows."""
