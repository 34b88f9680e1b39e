"""Many images in, Parquet out."""
