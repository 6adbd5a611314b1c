"""How long i12e takes, beside other ways to do the same: `./doit bench`, or `python -m benchmarks`."""
