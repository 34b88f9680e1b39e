"""One thread a test process: workers run side by side, and waiting threads would cost more than they help."""

from __future__ import annotations

import os
import sys

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)

# A slow or busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
