"""products: MatMul, Gemm and LSTM with constant weights as integer products that need no ranges: activations quantized at each run, or weights of a few bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir import Constant, Model, Node, Tensor, constant_data, constant_value, graphs, nodes, output_ids
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.numbered import numbered, numbers_in
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.scopes import node_homes
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize.certify import certificate
from graphcompress.passes.quantize.exclusion import exclusion
from graphcompress.passes.quantize.groups import is_float, node_name, shape_of
from graphcompress.passes.quantize.nbits import block_codes
from graphcompress.passes.quantize.options import ProductOptions
from graphcompress.passes.quantize.parameters import Array, quantize_weight
from graphcompress.passes.quantize.recurrent import RUNTIME_DOMAIN, RecurrentLayer, integer_layer, layer_unfit
from graphcompress.runtime import profile
from graphcompress.step import Context, Ladder, Refusal, StepResult
from graphcompress.targets import Target, load_target

SMALLEST = 1024
"""Elements of a weight from which on it is worth three nodes."""
DYNAMIC_OPSET = 11
FLOAT = 1  # ONNX's enum of the element type
FAST = 4  # MatMulNBits: activations in 8 bits


@dataclass(frozen=True, slots=True)
class Product:
    """A MatMul or Gemm of `x` with a constant matrix [rows, columns] (`transposed`: [columns, rows]), and perhaps a bias that is added."""

    node: Node
    x: Tensor
    weight: Tensor
    transposed: bool
    bias: Tensor | None

    @property
    def weights(self) -> list[Tensor]:
        return [self.weight]

    @property
    def matrix(self) -> Array:
        values = constant_value(self.weight)
        assert values is not None
        return values.T if self.transposed else values


def products(model: Model, context: Context, options: ProductOptions | None = None) -> Ladder:
    """Every MatMul and Gemm with a large constant weight in the form that `options` names: "dynamic" (int8 weights per column, activations in 8 bits by the range of each run; LSTMs too) or
    "int4" (4-bit weights in blocks). Needs no data.

    What the provider does not compute in that form stays float, with a refusal. Raises UsageError for an `exclude` that matches nothing, ModelError for nodes that nothing here can run.
    """
    options = options or ProductOptions()
    target = context.target or load_target("cpu")
    require_known_domains(model, "quantized")
    result = integer_products(model, target, options, exclusion(model, options.exclude))
    return Ladder.single(result, f"{options.form} products" if result.changed else "no integer products")


def integer_products(model: Model, target: Target, options: ProductOptions, excluded: Callable[[Node], bool]) -> StepResult:
    """The work of `products`, nodes being `excluded` one by one."""
    refusals: dict[Node, Refusal] = {}
    found = find(model, target, options.form, excluded, refusals)
    if options.form == "dynamic" and model.opset < DYNAMIC_OPSET and found:
        reason = f"activations are quantized at each run from opset {DYNAMIC_OPSET} on, and the model has {model.opset}"
        refusals |= {p.node: Refusal("products/opset", reason, node_name(p.node)) for p in found}
        found = []
    writer = _dynamic if options.form == "dynamic" else _few_bits
    result = model
    while found:
        result = _written(model, found, target, writer, options.block)
        missed = _missed(result, found, target, options.form)
        if not missed:
            break
        reason = "written as an integer product the provider would not compute it in one"
        refusals |= {p.node: Refusal("products/missed-fusion", reason, node_name(p.node)) for p in missed}
        found = [p for p in found if p not in missed]
    integer = {p.node: p for p in found}
    certified = certificate(model, integer, refusals, target)
    if not found:
        return StepResult(model, False, refusals=tuple(refusals.values()), certificate=certified)
    decisions = {"form": options.form, "products": [node_name(p.node) for p in found]}
    return StepResult(result, True, {f"products/{options.form}": len(found)}, tuple(refusals.values()), decisions, certified)


def find(model: Model, target: Target, form: str, excluded: Callable[[Node], bool], refusals: dict[Node, Refusal]) -> list[Product | RecurrentLayer]:
    """What of `model` can be had in `form`; reasons why heavy operators cannot go to `refusals`."""
    shapes = infer(model)
    found: list[Product | RecurrentLayer] = []
    for node in nodes(model):
        if node.op not in target.heavy or not node.standard:
            continue
        recurrent = node.is_op("LSTM") and form == "dynamic"
        reason = layer_unfit(node, excluded) if recurrent else _unfit(node, excluded)
        if reason is None and shapes.dtype(node.inputs[0]) not in (None, "float"):
            reason = "it does not compute in float32"
        if reason is None:
            entry = RecurrentLayer(node) if recurrent else _product(node)
            if sum(int(np.prod(shape_of(w))) for w in entry.weights) >= SMALLEST:
                found.append(entry)
                continue
            reason = f"its weights have fewer than {SMALLEST} elements"
        refusals[node] = Refusal("products/unfit", reason, node_name(node))
    return found


def _product(node: Node) -> Product:
    transposed = bool(node.is_op("Gemm") and node.attrs.get("transB", 0))
    return Product(node, node.inputs[0], node.inputs[1], transposed, node.input(2) if node.is_op("Gemm") else None)


def _unfit(node: Node, excluded: Callable[[Node], bool]) -> str | None:
    """Why a heavy operator is no product; None where it is one."""
    if not node.is_op("MatMul", "Gemm"):
        return f"{node.op} has no such form"
    if excluded(node):
        return "it was excluded"
    if constant_data(node.inputs[0]) is not None:
        return "its first input is a constant"
    weight = node.inputs[1]
    if constant_data(weight) is None or not is_float(weight) or len(shape_of(weight)) != 2:
        return "its weight is no constant float32 matrix"
    if node.is_op("Gemm") and (node.attrs.get("transA", 0) or node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0):
        return "a Gemm with factors, or of a transposed input, has no such form"
    values = constant_value(weight)
    return None if values is not None and np.isfinite(values).all() else "its weight has NaN or infinite values"


Writer = Callable[[Model, Edits, Product, Array, Tensor, Target, int], list[Node]]


def _written(model: Model, chosen: Sequence[Product | RecurrentLayer], target: Target, writer: Writer, block: int) -> Model:
    """A copy of `model` with these products in integers."""
    copy, twins = model.clone()
    homes, outputs = node_homes(copy), output_ids(copy)
    weights: list[Tensor] = []
    zeros: dict[tuple[int, ...], Tensor] = {}
    with Edits(copy) as edits:
        for product in chosen:
            node = twins.node(product.node)
            weights += [twins.tensor(w) for w in product.weights]
            edits.remove([node])
            if isinstance(product, RecurrentLayer):
                edits.add(integer_layer(copy, node, target, zeros), homes[node])
                continue
            bias = None if product.bias is None else twins.tensor(product.bias)
            result = node.outputs[0]
            out = result if bias is None else copy.variable("p")
            twin = Product(node, node.inputs[0], node.inputs[1], product.transposed, bias)
            added = writer(copy, edits, twin, product.matrix, out, target, block)
            if bias is not None:
                added.append(detached("Add", "", {}, (out, bias), (result,)))
            added[-1 if bias is None else -2].name = copy.fresh(node.name or "product")
            for new in added:
                new.rank = node.rank
                edits.add(new, homes[node])
    unread = {t for t in weights if isinstance(t, Constant) and not t.outputs and id(t) not in outputs}
    for graph in graphs(copy):
        graph.initializers = {name: constant for name, constant in graph.initializers.items() if constant not in unread}
    return copy


def _dynamic(model: Model, edits: Edits, product: Product, matrix: Array, out: Tensor, target: Target, block: int) -> list[Node]:
    """The chain that the provider makes one DynamicQuantizeMatMul of."""
    weight = quantize_weight(matrix, 1, target.weight)
    codes, zeros, scales = (model.constant(*p) for p in (("w", weight.codes), ("z", np.zeros(weight.scales.size, np.int8)), ("s", weight.scales)))
    x, x_scale, x_zero, whole, wide, scale = (model.variable(hint) for hint in ("q", "s", "z", "i", "c", "s"))
    return [
        detached("DynamicQuantizeLinear", "", {}, (product.x,), (x, x_scale, x_zero)),
        detached("MatMulInteger", "", {}, (x, codes, x_zero, zeros), (whole,)),
        detached("Cast", "", {"to": FLOAT}, (whole,), (wide,)),
        detached("Mul", "", {}, (x_scale, scales), (scale,)),
        detached("Mul", "", {}, (wide, scale), (out,)),
    ]


def _few_bits(model: Model, edits: Edits, product: Product, matrix: Array, out: Tensor, target: Target, block: int) -> list[Node]:
    """onnxruntime's operator for 4-bit weights."""
    stored = block_codes(matrix, 4, block)
    model.import_opset(RUNTIME_DOMAIN, 1)
    parts = model.constant("w", stored.packed), model.constant("s", stored.scales.reshape(-1))
    attrs = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": 4, "block_size": block, "accuracy_level": FAST}
    return [detached("MatMulNBits", "", attrs, (product.x, *parts), (out,), RUNTIME_DOMAIN)]


def _missed(model: Model, found: Sequence[Product | RecurrentLayer], target: Target, form: str) -> list[Product]:
    """The products whose chain the provider did not make one operator of. Where its graph cannot be read, none. Raises ModelError where it cannot load them."""
    if form != "dynamic" or target.certificate != "optimized-graph":
        profile.optimized_model(model, target.provider, config=target.session_options)
        return []
    with numbered(model) as everything:
        optimized = profile.optimized_model(model, target.provider, config=target.session_options)
    integers = [n for n in everything if n.is_op("MatMulInteger")]
    written = [p for p in found if isinstance(p, Product)]
    if len(integers) != len(written):
        raise ModelError("The model has integer products of its own, beside which new ones cannot be told. Quantize a float model.")
    left = {everything[number] for kernel in nodes(optimized) if kernel.is_op("MatMulInteger") for number in numbers_in(kernel.name)}
    return [p for p, n in zip(written, integers, strict=True) if n in left]
