"""The small model that ships with this package: base, adapter, card. Written by ``python -m training demo``."""
