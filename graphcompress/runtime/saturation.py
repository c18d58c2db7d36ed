"""Whether integer kernels saturate on this machine: x86 without VNNI adds two products of a uint8 and an int8 in 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.model import Model
from graphcompress.runtime.session import Session

DEPTH, WIDTH = 64, 16
LARGEST = 255 * 127
# Every product is the largest that there is: a sum of two of them fits into 17 bits, and ends at 32767 where 16 are all there are.
PROBE = f"""
<ir_version: 8, opset_import: ["": 13]>
probe (uint8[1, {DEPTH}] x) => (int32[1, {WIDTH}] y)
<int8[{DEPTH}, {WIDTH}] w = {{{", ".join(["127"] * DEPTH * WIDTH)}}}>
{{ y = MatMulInteger (x, w) }}
"""


def saturates(open_session: Callable[[Model], Session]) -> bool:
    """Whether a session that `open_session` opens loses sums of products: found by running one matrix product whose result is known."""
    with closing(open_session(parse_model(PROBE))) as session:
        sums = session.run({"x": np.full((1, DEPTH), 255, np.uint8)})["y"]
    return bool((sums != LARGEST * DEPTH).any())
