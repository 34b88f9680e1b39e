from __future__ import annotations

import io
import threading

import pytest

from beam_pipeline.progress import Counts, ProgressPrinter, Tally, duration, progress_line, tally_of


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (Counts(), "finding images"),
        (Counts(total=2000), "0 of 2,000 images"),
        (Counts(done=1, scoring_s=0), "1 images · 0 failed"),
        (Counts(500, 3, 0, 2000, 10.0), "500 of 2,000 images · 50.0 images/s · 3 failed · 30 s left"),
        (Counts(500, 0, 7, None, 10.0), "500 images · 50.0 images/s · 0 failed · 7 skipped"),
        (Counts(2000, 0, 0, 2000, 10.0), "2,000 of 2,000 images · 200.0 images/s · 0 failed"),
    ],
)
def test_the_line_says_done_speed_and_failures(counts: Counts, line: str) -> None:
    assert progress_line(counts) == line


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_are_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_outcomes_of_many_threads_are_all_counted() -> None:
    tally = Tally()
    threads = [
        threading.Thread(target=lambda: [tally.add(failed=number % 2 == 0) for number in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tally.counts().done, tally.counts().failed) == (2000, 1000)


def test_the_clock_starts_when_the_number_of_images_is_known() -> None:
    now = 100.0
    tally = Tally(clock=lambda: now)
    assert tally.counts().scoring_s == 0
    tally.expect(5)
    now = 104.0
    tally.add(failed=False)
    assert tally.counts() == Counts(1, 0, 0, 5, 4.0)


def test_a_run_has_one_tally_in_a_process() -> None:
    assert tally_of("some run") is tally_of("some run")
    assert tally_of("some run") is not tally_of("another run")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_rewritten_and_a_file_plain_lines() -> None:
    terminal, file = _Terminal(), io.StringIO()
    for stream in (terminal, file):
        tally = Tally()
        with ProgressPrinter(tally, stream, interval_s=60):
            tally.add(failed=False)
    assert terminal.getvalue().startswith("\r1 images")
    assert terminal.getvalue().endswith("\n")
    assert file.getvalue().splitlines()[-1].startswith("1 images")
    assert "\r" not in file.getvalue()


def test_the_last_line_is_printed_even_when_the_job_dies() -> None:
    stream = io.StringIO()
    tally = Tally()

    def die() -> None:
        with ProgressPrinter(tally, stream, interval_s=60):
            tally.add(failed=True)
            raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        die()
    assert "1 failed" in stream.getvalue()
