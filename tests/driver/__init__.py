"""The driver API: one contract suite over all drivers, and what is one driver's own."""
