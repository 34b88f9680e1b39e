"""One reader of ``output``, in this process; prints what it took as one line of JSON.

python -m tests.benchmarks.output_job READER OUTPUT
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import pyarrow as pa

from beam_pipeline.output.compaction import CompactionSettings, compact
from beam_pipeline.output.scored import scored_keys
from beam_pipeline.output.summary import summarise
from beam_pipeline.stores.storage import join, list_files
from schemas.tables import SCORES
from tests.benchmarks.large_output import REVISION
from tests.benchmarks.machine import process_bytes


def _summarised(output: str) -> int:
    return summarise(output).scored


def _keys(output: str) -> int:
    files = list_files(join(output, SCORES), ".parquet")
    return sum(1 for file in files for _ in scored_keys(file, REVISION))


def _compacted(output: str) -> int:
    days = compact(output, CompactionSettings(delete_after_s=0), before="9999-12-31")
    return sum(day.rows for day in days)


_READERS: dict[str, Callable[[str], int]] = {"summary": _summarised, "keys": _keys, "compact": _compacted}


def main(reader: str, output: str) -> int:
    """Run it."""
    # The first array that becomes numpy's imports pandas, where it is installed; no reader's fault.
    pa.array([0]).to_numpy()
    before, start = process_bytes("VmHWM"), time.perf_counter()
    rows = _READERS[reader](output)
    seconds, peak = time.perf_counter() - start, process_bytes("VmHWM")
    held = None if before is None or peak is None else peak - before
    print(json.dumps({"rows": rows, "seconds": seconds, "bytes": held}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
