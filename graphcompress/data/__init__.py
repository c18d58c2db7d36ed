"""Feeds: what a model is calibrated, compared and timed with. Names, shapes and types are checked once, whatever the feeds come from; files are streamed."""

from __future__ import annotations

from graphcompress.data.dataset import WATCHED, Dataset, split, watched
from graphcompress.data.files import open_data
from graphcompress.data.generate import random_data
from graphcompress.data.memory import memory_data
from graphcompress.data.signature import Feed

__all__ = ["WATCHED", "Dataset", "Feed", "memory_data", "open_data", "random_data", "split", "watched"]
