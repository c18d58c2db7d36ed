"""The target tables of rules/targets/: what an execution provider runs in which precision, in which form, and what it costs.

`rules_root()` is the one place that knows where the rules are: `graphcompress/rules` in a wheel, the repository's `rules/` in an sdist or an editable install.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from graphcompress.errors import TargetError, cause

Slot = Literal["activation", "weight", "bias", "operand", "keep"]
IntegerType = Literal["uint8", "int8"]
Scalar = int | float | str


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Activation(Table):
    """How activations are quantized: one scale and zero point per tensor. A range narrower than `constant_below` is that of a constant."""

    type: IntegerType
    symmetric: bool
    constant_below: float = Field(gt=0)

    @property
    def codes(self) -> tuple[int, int]:
        """Lowest and highest code."""
        if self.type == "uint8":
            return 0, 255
        return (-127 if self.symmetric else -128), 127


class Weight(Table):
    """How constant weights are quantized: symmetric codes from `low` to `high`, a scale per output channel or one per tensor.

    `pair_limit` bounds the sum of two codes of one sign that meet in one instruction (neighbours 2j and 2j + 1 along the reduction, a Conv's channels last), for processors that
    add two products in 16 bits with saturation. One code alone keeps it.
    """

    type: IntegerType
    symmetric: bool
    granularity: Literal["channel", "tensor"]
    low: int
    high: int
    smallest_scale: float = Field(gt=0)
    pair_limit: int = Field(ge=2)

    @model_validator(mode="after")
    def _codes_alone(self) -> Weight:
        if self.pair_limit < max(-self.low, self.high):
            raise ValueError(f"pair_limit is {self.pair_limit}, below the largest code")
        return self


class Bias(Table):
    """The form of a bias: "int32" with scale float32(activation scale * weight scale), no code beyond `limit`; or "float"."""

    form: Literal["int32", "float"]
    limit: int = Field(gt=0)


class Opsets(Table):
    """The first opset of ai.onnx with Q/DQ, with a scale per channel, and the newest that the target still takes from us (None: any)."""

    quantize: int
    per_channel: int


class Boundary(Table):
    """What it costs to cross between float and integers, in ns per element of the tensor, and `floor` ns per crossing node. `layout` is added where the tensor is made or read
    by one of the operators `layout_of`, which work in another layout in integers than in float.

    A group is worth its integers where they gain more than `margin` says; of the time gained, `size_share` may be spent on weights that only get smaller, not faster.
    """

    quantize: float = Field(ge=0)
    dequantize: float = Field(ge=0)
    layout: float = Field(ge=0)
    layout_of: tuple[str, ...] = ()
    floor: float = Field(ge=0)
    margin: float = Field(ge=1)
    size_share: float = Field(ge=0, lt=1)


class Layout(Table):
    """What layouts of float Convs cost. `column`: the part of its time that a kernel of one pixel's width gains along rows instead of columns, at `mac_ns` ns per multiply-accumulate.
    Output channels are computed in blocks of `lanes`; the first costs `block_ns` ns per position and element of a dot product, and what is idle in it costs the same. To bring elements to
    other places costs `move_ns` ns each, and `floor` ns."""

    column: float = Field(gt=0, lt=1)
    mac_ns: float = Field(gt=0)
    lanes: int = Field(ge=2)
    block_ns: float = Field(gt=0)
    move_ns: float = Field(ge=0)
    floor: float = Field(ge=0)


class Price(Table):
    """Cost of an operator where all `below` hold (each: that figure of the group is less than the number).

    `float` is the float cost in ns per unit (the row's `unit`), `ratio` the integer cost relative to it. Figures: `macs`, `elements` (of the largest data tensor), `depth` and `width`
    (input and output channels of one group of channels), `groups`, `channels` (all input channels), `reduction` (length of one dot product).
    """

    below: dict[Literal["macs", "elements", "depth", "width", "groups", "channels", "reduction"], float] = Field(default_factory=dict)
    float_ns: float = Field(gt=0)
    ratio: float = Field(gt=0)


class Operator(Table):
    """One way in which one operator becomes integer arithmetic.

    slots       what each input is: "activation" (computed), "weight" (constant, the weight's type), "bias" (constant or absent), "operand" (an activation, or a constant in the
                activation's type), "keep" (indices, shapes: left alone); `rest` for the inputs after these
    becomes     what the provider's optimized graph calls it
    output      "required": fuses only with a Q behind it; "optional": may also hand out float
    tied        inputs and outputs must have one scale and zero point (what moves data)
    clipped     the codes of the output are those of the input, clipped, under another scale and zero point (HardSigmoid: alpha * x + beta between 0 and 1)
    fixed       the range of the output whatever the data say
    absorbs     activations that the Q behind them makes redundant
    bias_add    an Add of a constant vector behind it belongs to it
    require     attributes and the only value that fuses; it is also the default value of an absent attribute
    axis, flip  the output channels' axis in the weight; where the attribute `flip` is 1, a weight of rank 2 has the other one
    rank        the weight's ranks that fuse
    follows     worth it only where every neighbour computes in integers
    scalar_only the provider fuses it whatever form the scales have, and then takes only scalars: with DQ before and Q behind it cannot stay float
    pulled      the provider moves a Q behind it to its front, so that it computes in integers between a float maker and an integer reader; then it costs this many times float
    price       the first entry that fits is the cost
    """

    op: str
    opset: int = 1
    slots: tuple[Slot, ...]
    rest: Slot | None = None
    becomes: tuple[str, ...]
    heavy: bool = False
    output: Literal["required", "optional"] = "required"
    every_output: bool = False
    tied: bool = False
    clipped: bool = False
    fixed: tuple[float, float] | None = None
    absorbs: tuple[str, ...] = ()
    bias_add: bool = False
    require: dict[str, Scalar] = Field(default_factory=dict)
    axis: int | None = None
    flip: str | None = None
    rank: tuple[int, ...] = ()
    follows: bool = False
    scalar_only: bool = False
    pulled: float | None = None
    unit: Literal["mac", "element"] = "element"
    price: Annotated[tuple[Price, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Operator:
        if ("weight" in self.slots) != (self.axis is not None):
            raise ValueError("a row with a weight states its `axis`, one without has none")
        if self.price[-1].below:
            raise ValueError("the last `price` must fit everything: leave out its `below`")
        if self.tied and (self.absorbs or self.fixed or "weight" in self.slots):
            raise ValueError("a tied row neither absorbs an activation nor has a fixed range or a weight")
        if self.clipped and (self.op != "HardSigmoid" or self.tied or self.absorbs or self.fixed):
            raise ValueError("a clipped row is one of HardSigmoid, and neither tied nor with a fixed range, and absorbs nothing")
        return self


class Target(Table):
    """One execution provider, as a table: what it is called in onnxruntime, the entries of the session configuration that its sessions get, and how it is known what it runs
    in integers: `certificate` "optimized-graph" (the graph that it makes of a model can be read back), "nodes-taken" (only which nodes it took), "none" (what is written is believed).

    `layout` is False where nobody measured what layouts cost there: a table that extends another says so, and Convs stay as they are.
    `float_only` gives the reason for operators that have no integer kernel; `heavy` are those that the certificate lists.
    """

    name: str = ""
    summary: str
    provider: str
    certificate: Literal["optimized-graph", "nodes-taken", "none"]
    opsets: Opsets
    activation: Activation
    weight: Weight
    bias: Bias
    boundary: Boundary
    layout: Layout | Literal[False] = False
    session_options: dict[str, str] = Field(default_factory=dict)
    heavy: tuple[str, ...]
    float_only: dict[str, str] = Field(default_factory=dict)
    operator: tuple[Operator, ...]

    def rows(self, op: str) -> tuple[Operator, ...]:
        """The rows of one operator of ai.onnx, in the table's order."""
        return tuple(row for row in self.operator if row.op == op)


class MeasuredCost(Table):
    """What an entry of a row's `price` costs on one machine: `row` and `price` are places in `Target.operator` and in the row's prices; `float_ns` and `ratio` mean what they mean there."""

    op: str
    row: int = Field(ge=0)
    price: int = Field(ge=0)
    float_ns: float = Field(gt=0, description="Of one unit of the row in float, in nanoseconds.")
    ratio: float = Field(gt=0, description="Of INT8 to float.")
    spread: float = Field(ge=0, description="Half the width of the 95% interval of the ratio, beside it.")
    measured: str = Field(description="The layer that was timed.")


class Costs(Table):
    """What `calibrate` writes: measured costs in place of those of the table `target`."""

    format: Literal[1] = 1
    target: str
    place: str
    provider: str
    runtime: str
    machine: str = Field(description="Architecture, processor, instruction sets and cores.")
    threads: int
    seconds: float = Field(description="How long it was measured.")
    costs: tuple[MeasuredCost, ...]
    left: tuple[str, ...] = Field(default=(), description="Entries that keep the table's figures, with the reason.")


def rules_root() -> Path:
    """The folder that holds rewrite/, targets/, recipes/.

    Raises TargetError where neither place has it (a broken installation).
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "rules", package.parent / "rules"):
        if folder.is_dir():
            return folder
    raise TargetError(f"The rules that belong to graphcompress are neither in {package / 'rules'} nor beside the package: install it again.")


def target_names() -> tuple[str, ...]:
    """The targets that have a table."""
    return tuple(sorted(p.stem for p in (rules_root() / "targets").glob("*.toml")))


def load_target(name: str) -> Target:
    """The table rules/targets/NAME.toml.

    Raises TargetError for a name without a table (the message lists those there are) or a table that is not what it must be.
    """
    if name not in target_names():
        raise TargetError(f"There is no target '{name}'. Known targets: {', '.join(target_names())}.")
    return read_target(rules_root() / "targets" / f"{name}.toml")


def read_costs(path: Path, target: Target) -> Target:
    """`target` with the costs of a file that `calibrate` wrote.

    Raises TargetError where it is no such file, or one for another table.
    """
    try:
        costs = Costs.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TargetError(f"{path} is no file of costs: {f'{where}: ' if where else ''}{first['msg']}. Make one with graphcompress calibrate.") from problem
    except OSError as problem:
        raise TargetError(f"{path} cannot be read: {cause(problem)}.") from problem
    if costs.target != target.name:
        raise TargetError(f"{path} has costs for the table '{costs.target}', and the target is '{target.name}'.")
    rows = list(target.operator)
    for cost in costs.costs:
        row = rows[cost.row] if cost.row < len(rows) else None
        if row is None or row.op != cost.op or cost.price >= len(row.price):
            raise TargetError(f"{path}: the table '{target.name}' has no such price of {cost.op}: it has changed since. Calibrate again.")
        prices = list(row.price)
        prices[cost.price] = prices[cost.price].model_copy(update={"float_ns": cost.float_ns, "ratio": cost.ratio})
        rows[cost.row] = row.model_copy(update={"price": tuple(prices)})
    return target.model_copy(update={"operator": tuple(rows)})


def read_target(path: Path) -> Target:
    """The table in a file, named after it. With `extends = "NAME"` it holds only what differs from the table NAME beside it.

    Raises TargetError with file and place of what is wrong.
    """
    data = _table(path)
    base = data.pop("extends", None)
    if base is not None:
        source = path.with_name(f"{base}.toml")
        if source == path or not source.is_file():
            raise TargetError(f"{path}: it extends '{base}', and there is no such table beside it.")
        inherited = _table(source)
        if "extends" in inherited:
            raise TargetError(f"{path}: it extends '{base}', which extends another table itself; one level is enough.")
        data = _merged(inherited, data)
    try:
        return Target(name=path.stem, **data)
    except ValidationError as problem:
        faults = [f"{'.'.join(str(part) for part in e['loc']) or 'the table'}: {e['msg']}" for e in problem.errors()]
        raise TargetError(f"{path}: {'; '.join(faults)}.") from problem


def _table(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise TargetError(f"{path}: the target table cannot be read: {cause(problem)}.") from problem
    if "name" in data:
        raise TargetError(f"{path}: a target is named after its file; take out `name`.")
    return data


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: tables entry by entry, everything else as a whole."""
    result = dict(base)
    for key, value in changes.items():
        result[key] = _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return result
