"""What an output already holds: the keys of its scores, for ``--skip-scored``."""

from __future__ import annotations

from collections.abc import Iterator

from beam_pipeline.output.categories import is_one_of
from beam_pipeline.output.parquet import batches_of
from schemas.tables import KEY


def scored_keys(file: str, revision: str) -> Iterator[tuple[str, int]]:
    """Read the keys (as ``ImageRef.key``) that one file holds for one champion; reads four columns only.

    What the adapter scored as a challenger is not scored yet: the published view would not show it.
    """
    for batch in batches_of(file, [*KEY, "role"]):
        uris, generations, revisions = (batch.column(name) for name in KEY)
        holds = is_one_of(revisions, (revision,)) & is_one_of(batch.column("role"), ("champion",))
        yield from zip(
            uris.to_numpy(zero_copy_only=False)[holds],
            generations.fill_null(-1).to_numpy()[holds].tolist(),
            strict=True,
        )
