"""``/console``: the pages on which people see what the node does, and act."""
