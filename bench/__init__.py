"""Benchmarks that anybody can run: `python -m bench`. README.md explains every number."""
