"""products: MatMul, Gemm and LSTM with constant weights as integer products that need no ranges: activations quantized at each run, or weights of a few bits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir import Constant, Model, Node, Tensor, constant_data, constant_value, nodes
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.numbered import numbered, numbers_in
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.scopes import node_homes
from graphcompress.ir.model.unread import drop_unread
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize.certify import certificate
from graphcompress.passes.quantize.exclusion import exclusion
from graphcompress.passes.quantize.groups import is_float, node_name, shape_of
from graphcompress.passes.quantize.nbits import BITS, BLOCKED_OPSET, packed_blocks
from graphcompress.passes.quantize.options import ProductOptions
from graphcompress.passes.quantize.parameters import Array, quantize_weight
from graphcompress.passes.quantize.recurrent import RUNTIME_DOMAIN, RecurrentLayer, integer_layer, layer_unfit
from graphcompress.reconstruction.narrowing import narrowed
from graphcompress.reconstruction.rounding import Levels, round_to_nearest
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
    "int4" (4-bit weights in blocks). Needs no data; with some, weights of 4 bits are fitted, layer after layer, to what the original calculates.

    What the provider does not compute in that form stays float, with a refusal. Raises UsageError for an `exclude` that matches nothing, ModelError for nodes that nothing here can run.
    """
    options = options or ProductOptions()
    target = context.target or load_target("cpu")
    require_known_domains(model, "quantized")
    excluded = exclusion(model, options.exclude)
    if options.form == "dynamic":
        result = integer_products(model, target, excluded)
    else:
        result = few_bit_products(model, target, options.block, excluded, context)
    return Ladder.single(result, f"{options.form} products" if result.changed else "no integer products")


def integer_products(model: Model, target: Target, excluded: Callable[[Node], bool]) -> StepResult:
    """The dynamic form of `products`, nodes being `excluded` one by one."""
    refusals: dict[Node, Refusal] = {}
    found = find(model, target, "dynamic", excluded, refusals)
    if model.opset < DYNAMIC_OPSET and found:
        reason = f"activations are quantized at each run from opset {DYNAMIC_OPSET} on, and the model has {model.opset}"
        refusals |= {p.node: Refusal("products/opset", reason, node_name(p.node)) for p in found}
        found = []
    result = model
    while found:
        result = _written(model, found, target, functools.partial(_dynamic, target=target))
        missed = _not_fused(result, found, target)
        if not missed:
            break
        reason = "written as an integer product the provider would not compute it in one"
        refusals |= {p.node: Refusal("products/missed-fusion", reason, node_name(p.node)) for p in missed}
        found = [p for p in found if p not in missed]
    return _result(model, result, "dynamic", found, refusals, target)


def few_bit_products(model: Model, target: Target, block: int, excluded: Callable[[Node], bool], context: Context) -> StepResult:
    """The 4-bit form of `products`: from opset 21 on as a DequantizeLinear with blocks, which any runtime reads and onnxruntime makes its operator of; where it does not, and in older models, as
    that operator."""
    refusals: dict[Node, Refusal] = {}
    base, levels, layers = model, {}, []
    if context.data is not None:
        whole, chosen = _initializers(model, find(model, target, "int4", excluded, {}))
        fit = narrowed(whole, lambda node, weight: BITS if node in chosen else None, context, block=block)
        if fit.layers:
            base, layers, levels = fit.model, fit.layers, {w: fitted.levels for w, fitted in fit.weights.items()}
    found = [p for p in find(base, target, "int4", excluded, refusals) if isinstance(p, Product)]
    blocked: dict[str, Tensor] = {}
    own = set() if base.opset >= BLOCKED_OPSET else {p.node for p in found}

    def rounded(product: Product) -> Levels:
        return levels.get(product.weight) or round_to_nearest(product.matrix[None], BITS, block)

    def write(constants: SharedConstants, product: Product, x: Tensor, out: Tensor) -> list[Node]:
        if product.node in own:
            return _packed(constants, product, functools.partial(rounded, product), block, x, out)
        added = _blocked(constants, product, functools.partial(rounded, product), block, x, out)
        blocked[added[0].inputs[0].name] = product.weight
        return added

    result = base
    if found:
        result = _written(base, found, target, write)
        if left := _expanded_each_run(result, target) & set(blocked):
            own |= {p.node for p in found if p.weight in {blocked[name] for name in left}}
            result = _written(base, found, target, write)
            _expanded_each_run(result, target)
    done = _result(base, result, "int4", found, refusals, target)
    if not done.changed:
        return replace(done, model=model)
    return replace(done, decisions={**done.decisions, "layers": layers}) if layers else done


def _initializers(model: Model, found: Sequence[Product | RecurrentLayer]) -> tuple[Model, set[Node]]:
    """A copy of `model` in which the weights and biases of the products in `found` that Constant nodes make are initializers, and the nodes of these products there."""
    copy, twins = model.clone()
    read = [t for product in found for t in product.node.inputs[1:] if not isinstance(t, Constant)]
    made = {t: values for t in read if (values := constant_value(t)) is not None}
    with Edits(copy) as edits:
        for tensor, values in made.items():
            edits.replace(twins.tensor(tensor), copy.constant("w", values))
    drop_unread(copy, [twins.tensor(t) for t in made])
    return copy, {twins.node(product.node) for product in found}


def _result(model: Model, result: Model, form: str, found: Sequence[Product | RecurrentLayer], refusals: Mapping[Node, Refusal], target: Target) -> StepResult:
    certified = certificate(model, {p.node: p for p in found}, dict(refusals), target)
    if not found:
        return StepResult(model, False, refusals=tuple(refusals.values()), certificate=certified)
    decisions = {"form": form, "products": [node_name(p.node) for p in found]}
    return StepResult(result, True, {f"products/{form}": len(found)}, tuple(refusals.values()), decisions, certified)


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


class SharedConstants:
    """New constants of `model`, made once for all products with one weight."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._made: dict[tuple[str, Tensor, bool], tuple[Tensor, ...]] = {}

    def get(self, form: str, product: Product, make: Callable[[], Iterable[tuple[str, Array]]]) -> tuple[Tensor, ...]:
        """Those of the weight of `product` in one form, by hints for their names; `make` is asked once."""
        key = form, product.weight, product.transposed
        if key not in self._made:
            self._made[key] = tuple(self.model.constant(hint, values) for hint, values in make())
        return self._made[key]


Writer = Callable[[SharedConstants, Product, Tensor, Tensor], list[Node]]
"""Makes the nodes of a product: of the constants of a copy of its model, of the product, and of what it reads and makes in that copy."""


def _written(model: Model, chosen: Sequence[Product | RecurrentLayer], target: Target, writer: Writer) -> Model:
    """A copy of `model` with these products in integers."""
    copy, twins = model.clone()
    homes = node_homes(copy)
    weights: list[Tensor] = []
    zeros: dict[tuple[int, ...], Tensor] = {}
    constants = SharedConstants(copy)
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
            added = writer(constants, product, node.inputs[0], out)
            if bias is not None:
                added.append(detached("Add", "", {}, (out, bias), (result,)))
            added[-1 if bias is None else -2].name = copy.fresh(node.name or "product")
            for new in added:
                new.rank = node.rank
                edits.add(new, homes[node])
    drop_unread(copy, weights)
    return copy


def _dynamic(constants: SharedConstants, product: Product, x: Tensor, out: Tensor, *, target: Target) -> list[Node]:
    """The chain that the provider makes one DynamicQuantizeMatMul of."""

    def parts() -> list[tuple[str, Array]]:
        weight = quantize_weight(product.matrix, 1, target.weight)
        return [("w", weight.codes), ("z", np.zeros(weight.scales.size, np.int8)), ("s", weight.scales)]

    codes, zeros, scales = constants.get("dynamic", product, parts)
    x_codes, x_scale, x_zero, whole, wide, scale = (constants.model.variable(hint) for hint in ("q", "s", "z", "i", "c", "s"))
    return [
        detached("DynamicQuantizeLinear", "", {}, (x,), (x_codes, x_scale, x_zero)),
        detached("MatMulInteger", "", {}, (x_codes, codes, x_zero, zeros), (whole,)),
        detached("Cast", "", {"to": FLOAT}, (whole,), (wide,)),
        detached("Mul", "", {}, (x_scale, scales), (scale,)),
        detached("Mul", "", {}, (wide, scale), (out,)),
    ]


def _packed(constants: SharedConstants, product: Product, rounded: Callable[[], Levels], block: int, x: Tensor, out: Tensor) -> list[Node]:
    """onnxruntime's operator for 4-bit weights."""

    def parts() -> list[tuple[str, Array]]:
        levels = rounded()
        return [("w", packed_blocks(levels)), ("s", np.ascontiguousarray(levels.scales[0].T).reshape(-1))]

    constants.model.import_opset(RUNTIME_DOMAIN, 1)
    codes, scales = constants.get("packed", product, parts)
    rows, columns = product.matrix.shape
    attrs = {"K": rows, "N": columns, "bits": BITS, "block_size": block, "accuracy_level": FAST}
    return [detached("MatMulNBits", "", attrs, (x, codes, scales), (out,), RUNTIME_DOMAIN)]


def _blocked(constants: SharedConstants, product: Product, rounded: Callable[[], Levels], block: int, x: Tensor, out: Tensor) -> list[Node]:
    """The same with standard operators."""

    def parts() -> list[tuple[str, Array]]:
        levels = rounded()
        return [("w", levels.codes[0].astype(numpy_dtype("int4"))), ("s", levels.scales[0])]

    codes, scales = constants.get("blocked", product, parts)
    whole = constants.model.variable("w")
    return [
        detached("DequantizeLinear", "", {"axis": 0, "block_size": block}, (codes, scales), (whole,)),
        detached("MatMul", "", {}, (x, whole), (out,)),
    ]


def _not_fused(model: Model, found: Sequence[Product | RecurrentLayer], target: Target) -> list[Product]:
    """The products whose chain the provider did not make one operator of. Where its graph cannot be read, none. Raises ModelError where it cannot load them."""
    if target.certificate != "optimized-graph":
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


def _expanded_each_run(model: Model, target: Target) -> set[str]:
    """The constants whose DequantizeLinear the provider would run each time. Where its graph cannot be read, none. Raises ModelError where it cannot load `model`."""
    optimized = profile.optimized_model(model, target.provider, config=target.session_options)
    if target.certificate != "optimized-graph":
        return set()
    return {kernel.inputs[0].name for kernel in nodes(optimized) if kernel.is_op("DequantizeLinear")}
