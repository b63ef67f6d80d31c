"""A frozen benchmark of what goes wrong before the first epoch of a vision network; see docs/faults.md."""
