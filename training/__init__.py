"""Labelled images in, adapters out."""
