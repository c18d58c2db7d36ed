"""Nodes that stay float because their caller says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from graphcompress.errors import UsageError
from graphcompress.ir import Model, Node, nodes
from graphcompress.passes.quantize.groups import node_name


def exclusion(model: Model, patterns: Sequence[str]) -> Callable[[Node], bool]:
    """Which nodes stay float because a pattern matches their name anywhere. Raises UsageError for a pattern that is no regular expression or matches no
    node."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as problem:
            raise UsageError(f"--exclude '{pattern}' is no regular expression: {problem}.") from problem
    names = {id(n): node_name(n) for n in nodes(model)} if compiled else {}
    for expression in compiled:
        if not any(expression.search(name) for name in names.values()):
            raise UsageError(f"--exclude '{expression.pattern}' matches no node of {model.path or 'the model'}. `graphcompress inspect` lists the names.")
    return lambda node: any(e.search(node_name(node)) for e in compiled)
