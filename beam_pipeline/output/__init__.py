"""What a job leaves: Parquet, its views and queries, its summary, and how it stays small."""
