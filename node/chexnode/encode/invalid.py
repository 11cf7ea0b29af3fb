"""What is raised instead of sending an object that is wrong."""


class InvalidResult(Exception):
    """An encoded object does not read back as what it should say. A bug: it is not sent."""
