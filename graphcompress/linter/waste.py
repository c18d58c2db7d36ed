"""Rules about what the file carries for nothing: dead parts, duplicates, leftovers of exporters."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from graphcompress.ir import Constant, Node, constant_value, consumers, graphs, producer
from graphcompress.ir.bare import leave_out_notes
from graphcompress.ir.inline import RUNTIME_DOMAINS, called_function, function_bodies
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.schemas.operators import newest_opset
from graphcompress.linter.rule import LintRule, Problem, Subject
from graphcompress.passes.quantize.groups import node_name, unfolded
from graphcompress.passes.simplify.dead import dead_nodes, remove_dead
from graphcompress.passes.simplify.duplicates import Digests, digest_of, kind_of, merge_equal_constants

WORTH = 256
"""Bytes of a constant from which on a second copy is worth a word."""
NOTES_WORTH = 2048
PATH = re.compile(r"(/(?:home|Users|root|tmp|opt|usr|mnt|var|work)/[^\s'\",)]+|[A-Za-z]:\\[^\s'\",)]+)")
STATIC = {"qnn": "Qualcomm's HTP", "coreml": "CoreML", "nnapi": "NNAPI", "vitisai": "Vitis AI", "rknpu": "RKNPU", "webnn": "WebNN"}
"""Providers that compile for fixed sizes only (or fall back to the CPU otherwise)."""


def _dead_nodes(subject: Subject) -> Iterator[Problem]:
    for node in dead_nodes(subject.model):
        yield Problem(node_name(node), f"nothing depends on {node.op}, which onnxruntime may still run at every inference.")


def _dead_weights(subject: Subject) -> Iterator[Problem]:
    dead = set(map(id, dead_nodes(subject.model)))
    for graph in graphs(subject.model):
        annotated = {entry.value for note in graph.shell.quantization_annotation for entry in note.quant_parameter_tensor_names}
        for name, constant in graph.initializers.items():
            if name not in annotated and id(constant) not in subject.outputs and all(id(node) in dead for node in consumers(constant)):
                yield Problem(name, f"nothing reads the initializer '{name}' ({constant.nbytes:,} bytes).")


def _remove_dead(subject: Subject) -> int:
    return remove_dead(subject.model)


def _duplicates(subject: Subject) -> Iterator[Problem]:
    alike: dict[object, list[Constant]] = defaultdict(list)
    for constant in subject.model.graph.initializers.values():
        if constant.nbytes >= WORTH and constant.outputs:
            alike[kind_of(constant)].append(constant)
    for group in alike.values():
        equal: dict[bytes, list[Constant]] = defaultdict(list)
        for constant in group if len(group) > 1 else ():
            equal[digest_of(constant)].append(constant)
        for first, *others in equal.values():
            if others:
                yield Problem(
                    first.name,
                    f"{len(others) + 1} initializers hold the same {first.nbytes:,} bytes: '{first.name}', "
                    + ", ".join(f"'{c.name}'" for c in others[:3])
                    + ".",
                )


def _merge(subject: Subject) -> int:
    return merge_equal_constants(subject.model, Digests())


def _bypassed(subject: Subject) -> Iterator[tuple[Node, str]]:
    """Nodes whose output is their input, and what they are."""
    for node in subject.nodes:
        if not node.inputs or not node.outputs or id(node.outputs[0]) in subject.outputs or not node.outputs[0].outputs:
            continue
        if node.is_op("Identity"):
            yield node, "Identity"
        elif node.is_op("Dropout") and not _trains(node) and all(not o.outputs and id(o) not in subject.outputs for o in node.outputs[1:]):
            yield node, "Dropout, which does nothing at inference,"
        elif node.is_op("Cast", "CastLike") and (kind := subject.shapes.dtype(node.outputs[0])) is not None and kind == subject.shapes.dtype(node.inputs[0]):
            yield node, f"{node.op} from {kind} to {kind}"


def _trains(node: Node) -> bool:
    flag = constant_value(node.input(2))
    return node.input(2) is not None and (flag is None or bool(flag.any()))


def _leftover(subject: Subject) -> Iterator[Problem]:
    for node, what in _bypassed(subject):
        yield Problem(node_name(node), f"{what} was left by the exporter: it hands its input on.")


def _bypass(subject: Subject) -> int:
    places = [node for node, _ in _bypassed(subject)]
    with Edits(subject.model) as edits:
        for node in places:
            edits.replace(node.outputs[0], node.inputs[0])
        edits.remove(places)
    return len(places)


def _training_mode(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        if node.is_op("BatchNormalization") and node.attrs.get("training_mode", 0):
            yield Problem(
                node_name(node), "BatchNormalization is in training mode: its result depends on what else is in the batch. Call model.eval() before exporting."
            )
        elif node.is_op("Dropout") and (flag := constant_value(node.input(2))) is not None and flag.any():
            yield Problem(node_name(node), "Dropout is in training mode: its result is random. Call model.eval() before exporting.")


def _batchnorm(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        before = producer(node.inputs[0]) if node.is_op("BatchNormalization") else None
        if before is not None and len(consumers(node.inputs[0])) == 1 and id(node.inputs[0]) not in subject.outputs and unfolded(node, before):
            yield Problem(node_name(node), f"BatchNormalization stands behind {before.op} '{node_name(before)}', into whose weights it can be folded.")


def _shapes(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        if node.is_op("Shape", "Size") and subject.shapes.static(node.inputs[0]) is not None:
            yield Problem(node_name(node), f"{node.op} of a tensor whose sizes are fixed, and what is computed from it, is the same in every run.")


def _transposes(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        before = producer(node.inputs[0]) if node.is_op("Transpose") else None
        if before is not None and before.is_op("Transpose") and "perm" in node.attrs and "perm" in before.attrs:
            first, second = list(before.attrs["perm"]), list(node.attrs["perm"])
            if len(first) == len(second) and [first[axis] for axis in second] == sorted(first):
                yield Problem(
                    node_name(node), f"Transpose undoes Transpose '{node_name(before)}' before it: what is left where a converter changed the layout."
                )


def _notes(subject: Subject) -> Iterator[Problem]:
    texts = [text for graph in graphs(subject.model) for text in (graph.shell.doc_string, *(entry.value for entry in graph.shell.metadata_props))]
    protos = [node.proto for node in subject.nodes if node.proto is not None]
    texts += [text for proto in protos for text in (proto.doc_string, *(entry.value for entry in proto.metadata_props))]
    size = sum(map(len, texts))
    path = next((match for text in texts if (match := PATH.search(text)) is not None), None)
    if path is not None or size >= NOTES_WORTH:
        held = f", with paths of the machine that made it ({path.group()[:60]} ...)" if path is not None else ""
        yield Problem("the model", f"its doc strings and metadata of nodes hold {size:,} characters that nothing needs{held}.")


def _leave_out(subject: Subject) -> int:
    leave_out_notes(subject.model, shapes=True)
    return 1


def _listed(subject: Subject) -> Iterator[Problem]:
    listed = subject.model.overridable
    if listed and subject.model.ir_version >= 4:
        yield Problem(
            "the model",
            f"{len(listed)} initializers are listed as inputs ('{listed[0].name}' ...): callers may override them, so no runtime folds or packs them.",
        )


def _runtime_operators(subject: Subject) -> Iterator[Problem]:
    for node in subject.nodes:
        if node.domain == "com.microsoft.nchwc" or (node.domain == "com.microsoft" and str(node.op).startswith("Fused")):
            where = "for this kind of processor only" if node.domain.endswith("nchwc") else "for onnxruntime only"
            yield Problem(
                node_name(node), f"{node.op} of {node.domain} is what onnxruntime makes when it saves an optimized model, {where}, and has no INT8 form."
            )


def _unknown(subject: Subject) -> Iterator[Problem]:
    bodies = function_bodies(subject.model)
    for node in subject.nodes:
        if (node.domain or "") not in RUNTIME_DOMAINS and called_function(node) not in bodies and not str(node.domain).startswith("com.microsoft"):
            yield Problem(
                node_name(node),
                f"{node.op} of the domain '{node.domain}' is in neither ONNX nor onnxruntime: the file runs only where a library with it is loaded.",
            )


def _new(subject: Subject) -> Iterator[Problem]:
    if subject.model.opset > newest_opset():
        yield Problem(
            "the model", f"it has opset {subject.model.opset}, and the installed onnx knows {newest_opset()} at most: most runtimes will not load it yet."
        )


def _free(subject: Subject) -> Iterator[Problem]:
    who = STATIC.get(subject.provider.removesuffix("ExecutionProvider").lower())
    for spec in subject.model.inputs if who is not None else ():
        free = [str(dim) if dim is not None else "?" for dim in spec.shape or () if not isinstance(dim, int)]
        if free or spec.shape is None:
            yield Problem(
                spec.name,
                f"the input '{spec.name}' has free sizes ({', '.join(free) or 'of any rank'}), and {who} compiles for fixed ones: the model falls back to the CPU.",
            )


RULES = (
    LintRule(
        "waste/dead-node",
        "warning",
        "Nodes that nothing depends on",
        "They cost time and bytes, and come from unused heads.",
        "Remove them; --fix does.",
        _dead_nodes,
        _remove_dead,
    ),
    LintRule(
        "waste/dead-weight",
        "warning",
        "Initializers that nothing reads",
        "They are bytes in the file and in memory.",
        "Remove them; --fix does.",
        _dead_weights,
        _remove_dead,
    ),
    LintRule(
        "waste/duplicate",
        "warning",
        "Equal initializers",
        "Exporters write a shared weight once per use.",
        "Let one stand for all; --fix does.",
        _duplicates,
        _merge,
    ),
    LintRule(
        "waste/leftover",
        "warning",
        "Nodes that hand their input on",
        "Identity, Dropout at inference, and casts to the same type are left by exporters, and hide patterns from what fuses.",
        "Remove them; --fix does.",
        _leftover,
        _bypass,
    ),
    LintRule(
        "waste/batchnorm",
        "warning",
        "A BatchNormalization that can be folded",
        "Behind a Conv or Gemm it is a factor and an offset for its weights. Unfolded it costs a pass over memory, and keeps INT8 away.",
        "graphcompress simplify, or model.eval() and constant folding when exporting. Not mended by --fix, since the folded weights are rounded.",
        _batchnorm,
    ),
    LintRule(
        "waste/transpose",
        "warning",
        "Two Transposes that undo each other",
        "Converters between layouts leave them; each moves all of a tensor's memory.",
        "graphcompress simplify removes them.",
        _transposes,
    ),
    LintRule(
        "waste/shape",
        "warning",
        "Arithmetic on sizes that are fixed",
        "Shape, Gather, Concat and so on of sizes that the signature states are the same in every run, and hide patterns.",
        "graphcompress simplify folds them.",
        _shapes,
    ),
    LintRule(
        "waste/notes",
        "warning",
        "Doc strings and metadata of nodes",
        "Exporters write stack traces, module paths and names of folders of the machine there. They are bytes for nothing, and tell about whoever made the file.",
        "Leave them out; --fix does. `graphcompress inspect --privacy` lists what else the file tells.",
        _notes,
        _leave_out,
    ),
    LintRule(
        "model/training-mode",
        "error",
        "An operator in training mode",
        "A BatchNormalization or Dropout in training mode gives other results for the same input.",
        "Export again after model.eval(), without training=TrainingMode.TRAINING.",
        _training_mode,
    ),
    LintRule(
        "model/listed-weights",
        "warning",
        "Initializers that callers may override",
        "From IR version 4 on an initializer that is also an input is a default value: runtimes can neither fold nor quantize it. Exporters did so by mistake (keep_initializers_as_inputs).",
        "Export without it. `graphcompress simplify` takes them for constants where all are listed. Not mended by --fix, since it changes the inputs.",
        _listed,
    ),
    LintRule(
        "model/runtime-operators",
        "warning",
        "Operators that onnxruntime made",
        "The file was saved after optimization: it runs in that onnxruntime only, with the blocked layout only on such processors, and nothing can be quantized in it.",
        "Start from the file as it was exported.",
        _runtime_operators,
    ),
    LintRule(
        "model/unknown-operator",
        "warning",
        "Operators of an unknown domain",
        "They need a library of their own wherever the file runs.",
        "Export without them, or ship the library.",
        _unknown,
    ),
    LintRule(
        "model/new-opset",
        "warning",
        "An opset that is newer than the installed onnx",
        "Nothing can be said of its operators.",
        "Update onnx, or export with an older opset.",
        _new,
    ),
    LintRule(
        "model/free-size",
        "error",
        "Free sizes where the provider wants fixed ones",
        "NPUs compile a graph for fixed sizes. With a free one the provider takes nothing, and the model runs on the CPU.",
        "Fix them when exporting, or with onnxruntime.tools.make_dynamic_shape_fixed. Looked at with --provider only.",
        _free,
    ),
)
