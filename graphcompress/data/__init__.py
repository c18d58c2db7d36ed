"""Feeds from files: names, shapes, types checked; hashes; streamed."""

from __future__ import annotations

from graphcompress.data.feeds import Dataset, Feed, open_data, random_data, split

__all__ = ["Dataset", "Feed", "open_data", "random_data", "split"]
