"""The functions that `where` and `let` may call.

A structural function looks at the graph (shapes, types, uses, attributes); the others read values of constants. Axes and permutations come normalised: not negative.
"""

from __future__ import annotations

from graphcompress.engine import graph_words, value_words
from graphcompress.engine.words import Function

VOCABULARY: dict[str, Function] = {**graph_words.WORDS, **value_words.WORDS}
