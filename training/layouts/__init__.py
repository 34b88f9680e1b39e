"""Readers for the files in which public data sets come; ``registry`` lists them."""
