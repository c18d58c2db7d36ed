"""How much of what an output is used for is the same: one measure for each sort of output, each a statistic with `update`, `merge` and `finish`."""
