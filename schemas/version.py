"""The versions that are stamped on rows. ``setup.py`` reads the first."""

ENGINE_VERSION = "0.1.0"
"""Of this package."""

SCHEMA_VERSION = 1
"""Of the Parquet contract (``schemas.tables``)."""
