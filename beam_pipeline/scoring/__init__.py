"""Chunks in, outcomes out: fetching ahead of the model, micro-batches, adapters that change in flight."""
