"""The version of this package: stamped on rows, read by ``setup.py``."""

ENGINE_VERSION = "0.1.0"
