"""``python -m tests.golden``: what the shipped model says now, beside what the golden file says it said.

Without an option: the table of differences, exit code 1 where one is beyond the tolerance or the file is of
another adapter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.golden.company import Moved


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="write the golden file anew")
    what.add_argument(
        "--spread",
        action="store_true",
        help="measure how far a photograph's score moves with its company; exit code 1 beyond 0.001",
    )
    arguments = parser.parse_args(argv)
    import torch  # not needed for --help

    torch.set_num_threads(1)
    if arguments.spread:
        return _spread()
    return _write() if arguments.write else _differences()


def _write() -> int:
    from tests.golden.predicting import load_scorers, predict_golden
    from tests.golden.records import GOLDEN_FILE, write_golden

    golden = predict_golden(load_scorers().values(), shaken=True)
    write_golden(golden)
    unclear = sum(len(record.unclear) for record in golden.records)
    print(
        f"{GOLDEN_FILE.name}: {len(golden.records)} predictions of adapter revision "
        f"{golden.header.adapter_revision[:12]}, {unclear} unclear values"
    )
    return 0


def _differences() -> int:
    from tests.golden.predicting import load_scorers, predict_golden
    from tests.golden.records import compare_all, problems, read_golden

    golden = read_golden()
    found = predict_golden(load_scorers().values(), shaken=False)
    print(f"{'photograph (template)':<34}{'golden':>9}{'now':>9}  verdict  largest difference")
    comparisons = compare_all(golden, found)
    for comparison in comparisons:
        print(comparison)
    reasons = problems(golden, found)
    for reason in reasons:
        print(reason)
    return 1 if reasons or any(comparison.verdict == "DIFFERS" for comparison in comparisons) else 0


def _spread() -> int:
    from tests.golden.company import BATCHES, MOST_SPREAD, measure
    from tests.golden.photographs import photographs
    from tests.golden.predicting import load_scorers

    print("how far the score of 0-10 moves from that of the photograph alone; spread = largest less smallest")
    columns = ("beside", *(f"batch {size}," for size in BATCHES), "2 threads", "no oneDNN")
    titles = "".join(f"{column.rstrip(','):>11}" for column in columns)
    print(f"{'photograph (template)':<26}{titles}{'spread':>11}  decided otherwise")
    found = []
    for template, scorer in load_scorers().items():
        for name, data in photographs().items():
            found.append(measure(scorer, scorer.prepare(data), BATCHES, settings=True))
            print(_spread_line(f"{name} ({template})", found[-1], columns), flush=True)
    largest = max(moved.spread for moved in found)
    print(f"largest spread {largest:.1e} of {MOST_SPREAD}; each over {len(found[0].predictions)} predictions")
    return 0 if largest <= MOST_SPREAD and not any(moved.changed for moved in found) else 1


def _spread_line(name: str, moved: Moved, columns: Sequence[str]) -> str:
    cells = "".join(f"{moved.largest(column):>11.1e}" for column in columns)
    changed = "; ".join(f"{company}: {', '.join(fields)}" for company, fields in moved.changed.items())
    return f"{name:<26}{cells}{moved.spread:>11.1e}  {changed or 'nothing'}"


if __name__ == "__main__":
    sys.exit(main())
