"""A role of T(x, k, y) over devices: `blocks` and `layout` are geometry, `shards` computes, `spmd` tells XLA."""
