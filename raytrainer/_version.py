"""The one place that holds the version. The build reads it; nothing else may be written here."""

__version__ = "0.1.0"
