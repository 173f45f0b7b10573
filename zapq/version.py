"""The version of zapq: the package is built with it, and the program, its metrics and its documents say it."""

__version__ = "1.0.0"
