"""What the corpus's judge calls: one file in, one file out. Everything is imported here, once, before the judge forks."""

from __future__ import annotations

import graphcompress.api
import graphcompress.passes.simplify
import graphcompress.runtime.evaluate


def simplify(path_in: str, path_out: str) -> None:
    """`graphcompress simplify`, standard operators only."""
    graphcompress.save(graphcompress.simplify(path_in).model, path_out)
