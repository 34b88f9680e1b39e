"""The small model that ships with this package, as ``python -m training demo`` wrote it."""
