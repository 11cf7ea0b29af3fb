"""The node speaks up by itself: what is wrong is found, and told once, and once more when it is over."""
