"""What the demo, the benchmarks and the tests share, and what no user needs."""
