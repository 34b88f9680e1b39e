"""What crosses a boundary: records, the attribute vocabulary, the adapter manifest, Arrow tables.

Needs pydantic and pyarrow; imports neither torch nor Beam.
"""
