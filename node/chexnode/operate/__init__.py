"""What a person asks of the node, by a command or over HTTP."""
