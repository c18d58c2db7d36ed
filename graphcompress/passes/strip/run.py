"""strip: short names inside, no notes, no shapes that a runtime infers by itself."""

from __future__ import annotations

from collections import Counter

from graphcompress.ir import Model, graphs, nodes
from graphcompress.ir.analysis.privacy import texts
from graphcompress.ir.bare import leave_out_notes, leave_out_origin, shorten_names
from graphcompress.ir.files.serialize import size_on_disk
from graphcompress.ir.inline import RUNTIME_DOMAINS, called_function, function_bodies
from graphcompress.passes.strip.options import Options
from graphcompress.step import Context, Ladder, Refusal, StepResult

STAGE = "strip/names-and-notes"


def strip(model: Model, context: Context, options: Options | None = None) -> Ladder:
    """The same graph with short names for what nobody outside sees (tensors and nodes; inputs, outputs and functions keep theirs), without doc strings, metadata of nodes
    and value_info. Metadata of the model stays, since applications read it, unless the options say otherwise. The decisions say how many bytes of each kind of text went.

    Where a quantization annotation refers to tensors by name, names stay; value_info stays where an operator of an unknown domain may need it.
    """
    result = model.copy()
    refusals = []
    if any(g.shell.quantization_annotation for g in graphs(result)):
        refusals.append(Refusal("strip/annotated", "quantization annotations refer to tensors by name, so names stay"))
    else:
        shorten_names(result)
    bodies = function_bodies(result)
    unknown = next((n for n in nodes(model) if (n.domain or "") not in RUNTIME_DOMAINS and called_function(n) not in bodies), None)
    if unknown is not None:
        reason = f"what {unknown.domain}.{unknown.op} makes may be known from value_info alone, so that stays"
        refusals.append(Refusal("strip/unknown-domain", reason, unknown.name))
    leave_out_notes(result, shapes=unknown is not None)
    if options is not None and options.metadata:
        leave_out_origin(result)
    if size_on_disk(result) >= size_on_disk(model):
        return Ladder.single(StepResult(model, False, refusals=tuple(refusals)), "nothing to strip")
    gone = _bytes_by_kind(model) - _bytes_by_kind(result)
    return Ladder.single(StepResult(result, True, {STAGE: 1}, tuple(refusals), decisions={"removed_bytes": dict(sorted(gone.items()))}), "stripped")


def _bytes_by_kind(model: Model) -> Counter[str]:
    """Bytes of the texts of a model's file."""
    sizes: Counter[str] = Counter()
    for text in texts(model):
        sizes[text.kind] += len(text.value.encode())
    return sizes
