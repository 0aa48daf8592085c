"""Tools that tests, benchmarks and scripts share: real stacks, browsers, databases, hosts."""
