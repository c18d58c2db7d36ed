"""onnxruntime: sessions, observation, comparison and timing. `ort.py` is the only door to it."""

from __future__ import annotations

import os

# The Linux wheels from 1.29 on report home by default; only a value that is there before the first import opts out for good.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
