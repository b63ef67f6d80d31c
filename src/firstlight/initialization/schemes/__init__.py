"""One file per scheme, each a function from a graph to a plan."""
