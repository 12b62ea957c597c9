"""How long things take, as ratios within one run on one private etcd: `python -m benchmarks`, or `make bench`."""
