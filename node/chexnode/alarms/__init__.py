"""The node speaks up by itself: what is wrong is found and reported once, and once more when it is over."""
