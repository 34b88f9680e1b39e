"""Freed pictures go back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HOARD = """
from beam_pipeline.scoring.heap import return_large_blocks
if {told}: assert return_large_blocks()
import numpy as np
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096
for megabytes in (30, 25, 20, 15, 10): np.ones(megabytes << 20, np.uint8)  # raises glibc's own threshold
before = resident()
blocks = [np.ones(9 << 20, np.uint8) for _ in range(20)]
last = bytearray(100)
del blocks[:-1]
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc; this is another C library")
def test_freed_blocks_leave_the_process_even_below_one_that_stays() -> None:
    def kept(told: bool) -> int:
        code = HOARD.format(told=told)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    assert kept(True) < 80 << 20
    assert kept(False) > 100 << 20
