"""Tests; the folders mirror the packages. Never shipped."""
