"""Distillation of an ONNX student in PyTorch, with the loop of `graphcompress distill`: the same pairs, loss, crops and flips, Adam with warm-up and cosine. Run in an environment with torch, onnx and onnxruntime.

peer_torch_distill.py STUDENT TEACHER CALIB.npz JOB.json

Before anything is timed both models' tensors are compared with onnxruntime's on a batch: what is computed wrong here, or is not known at all, ends the program with a sentence. JOB has `steps`, `batch`, `rate`, `pairs` ([student's tensor, teacher's tensor, kept channels or null]) and `output`. Prints one JSON object: CPU seconds per step, peak memory, the loss. Only the operators of the
zoo's image networks are known.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import numpy_helper

EQUAL = 1e-3
"""Difference from onnxruntime, beside the largest value, that the order of additions explains."""


class Graph(torch.nn.Module):
    """An ONNX graph, node by node; floats of more than one element are parameters."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.graph = onnx.load(path).graph
        self.values: dict[str, torch.Tensor] = {}
        constants = [(i.name, numpy_helper.to_array(i)) for i in self.graph.initializer]
        constants += [(n.output[0], numpy_helper.to_array(n.attribute[0].t)) for n in self.graph.node if n.op_type == "Constant"]
        for name, value in constants:
            tensor = torch.from_numpy(np.array(value))
            if tensor.dtype == torch.float32 and tensor.numel() > 1:
                tensor = torch.nn.Parameter(tensor)
                self.register_parameter(name.replace(".", "_"), tensor)
            self.values[name] = tensor
        statistics = {i for n in self.graph.node if n.op_type == "BatchNormalization" for i in n.input[3:]}
        for name in statistics:
            self.values[name].requires_grad_(False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {**self.values, self.graph.input[0].name: x}
        for node in self.graph.node:
            if node.op_type != "Constant":
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                values[node.output[0]] = run(node.op_type, [values[i] if i else None for i in node.input], attributes)
        return values


def run(op: str, x: list[Any], a: dict[str, Any]) -> Any:
    """One operator."""
    match op:
        case "Conv":
            # A padding that is equal on both sides is Conv2d's own, as a user of PyTorch would write it.
            pads = padding(x[0].shape[2:], x[1].shape[2:], a)
            data = x[0] if pads[:2] == pads[2:] else F.pad(x[0], (pads[1], pads[3], pads[0], pads[2]))
            own = pads[:2] if pads[:2] == pads[2:] else [0, 0]
            return F.conv2d(data, x[1], x[2] if len(x) > 2 else None, a.get("strides", [1, 1]), own, a.get("dilations", [1, 1]), a.get("group", 1))
        case "BatchNormalization":
            return F.batch_norm(x[0], x[3], x[4], x[1], x[2], False, 0.0, a.get("epsilon", 1e-5))
        case "Relu":
            return F.relu(x[0])
        case "Add":
            return x[0] + x[1]
        case "Sub":
            return x[0] - x[1]
        case "Mul":
            return x[0] * x[1]
        case "Div":
            return x[0] / x[1]
        case "Clip":
            return x[0].clamp(*(None if v is None else float(v) for v in x[1:]))
        case "Erf":
            return torch.erf(x[0])
        case "Sqrt":
            return x[0].sqrt()
        case "Gelu":
            return F.gelu(x[0], approximate=a.get("approximate", b"none").decode())
        case "Softmax":
            return x[0].softmax(a.get("axis", -1))
        case "Gemm":
            product = a.get("alpha", 1.0) * (x[0].T if a.get("transA") else x[0]) @ (x[1].T if a.get("transB") else x[1])
            return product + a.get("beta", 1.0) * x[2] if len(x) > 2 else product
        case "MatMul":
            return x[0] @ x[1]
        case "LayerNormalization":
            return F.layer_norm(x[0], x[1].shape, x[1], x[2] if len(x) > 2 else None, a.get("epsilon", 1e-5))
        case "Transpose":
            return x[0].permute(a["perm"])
        case "Reshape":
            shape = [int(v) for v in x[1]]
            return x[0].reshape([x[0].shape[i] if s == 0 else s for i, s in enumerate(shape)])
        case "Flatten":
            return x[0].flatten(a.get("axis", 1))
        case "Identity":
            return x[0]
        case "ReduceMean" | "GlobalAveragePool":
            axes = [int(v) for v in x[1]] if len(x) > 1 else a.get("axes", [2, 3])
            return x[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))
        case "Slice":
            starts, ends = x[1].tolist(), x[2].tolist()
            axes = x[3].tolist() if len(x) > 3 and x[3] is not None else range(len(starts))
            steps = x[4].tolist() if len(x) > 4 else [1] * len(starts)
            for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
                places = range(*slice(start, end if step > 0 or end >= -x[0].shape[axis] else None, step).indices(x[0].shape[axis]))
                x[0] = x[0].index_select(axis, torch.tensor(list(places))) if step != 1 else x[0].narrow(axis, places.start, len(places))
            return x[0]
        case "Squeeze":
            axes = [int(v) for v in x[1]] if len(x) > 1 else a["axes"]
            return x[0].squeeze(tuple(axes))
        case "Unsqueeze":
            count = x[0].dim() + len(x[1])
            for axis in sorted(int(v) % count for v in x[1]):
                x[0] = x[0].unsqueeze(axis)
            return x[0]
        case "Concat":
            return torch.cat(x, a["axis"])
        case "Gather":
            return x[0].select(a.get("axis", 0), int(x[1])) if x[1].dim() == 0 else x[0].index_select(a.get("axis", 0), x[1])
        case "Shape":
            return torch.tensor(x[0].shape)[a.get("start", 0) : a.get("end")]
        case "Expand":
            return x[0].expand([int(v) for v in torch.broadcast_shapes(x[0].shape, [int(v) for v in x[1]])])
        case "MaxPool":
            pads = padding(x[0].shape[2:], a["kernel_shape"], a)
            data = F.pad(x[0], (pads[1], pads[3], pads[0], pads[2]), value=-torch.inf) if any(pads) else x[0]
            return F.max_pool2d(data, a["kernel_shape"], a.get("strides", [1, 1]), 0, a.get("dilations", [1, 1]), bool(a.get("ceil_mode", 0)))
    raise SystemExit(f"the operator {op} is not known to {Path(__file__).name}: nothing can be compared on this model.")


def padding(sizes: Sequence[int], kernel: Sequence[int], a: dict[str, Any]) -> list[int]:
    """Elements before both axes, then behind both. Of an odd number SAME_UPPER puts the larger half behind."""
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    way = a.get("auto_pad", b"NOTSET")
    if not way.startswith(b"SAME"):
        return list(a.get("pads", [0, 0, 0, 0]))
    missing = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n) for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)]
    small, large = [m // 2 for m in missing], [m - m // 2 for m in missing]
    return [*small, *large] if way == b"SAME_UPPER" else [*large, *small]


def check(model: Graph, path: str, names: Sequence[str], images: torch.Tensor) -> None:
    """End the program where a tensor is not what onnxruntime computes: the time of a wrong calculation says nothing."""
    proto = onnx.load(path)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    right = session.run(list(names), {proto.graph.input[0].name: images.numpy()})
    with torch.no_grad():
        values = model(images)
    for name, expected in zip(names, right, strict=True):
        ours = values[name].numpy()
        spread = float(np.abs(expected).max()) or 1.0
        if ours.shape != expected.shape or not np.abs(ours - expected).max() <= EQUAL * spread:
            raise SystemExit(f"{path}: the tensor '{name}' is not what onnxruntime computes, so that its time would say nothing.")


def moved(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Crops and flips of each picture of [n, c, h, w] or [n, h, w, c]."""
    last = batch.shape[3] in (1, 3)
    rows = []
    for picture in batch:
        for axis in (0, 1) if last else (1, 2):
            size = picture.shape[axis]
            places = np.abs(np.arange(size) + round(rng.uniform(-1, 1) * size / 8))
            picture = picture.index_select(axis, torch.from_numpy(np.where(places >= size, 2 * size - 2 - places, places)))
        rows.append(picture.flip(1 if last else 2) if rng.random() < 0.5 else picture)
    return torch.stack(rows)


def main() -> None:
    student, teacher = Graph(sys.argv[1]), Graph(sys.argv[2])
    with open(sys.argv[4], encoding="utf-8") as file:
        job = json.load(file)
    data = np.load(sys.argv[3])
    images = torch.from_numpy(data[next(k for k in data.files if not k.startswith("_"))])
    torch.set_num_threads(1)
    few = images[: job["batch"]]
    check(student, sys.argv[1], [name for name, _, _ in job["pairs"]], few)
    check(teacher, sys.argv[2], [name for _, name, _ in job["pairs"]], few)
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, job["rate"])
    rng = np.random.default_rng(0)
    scales: dict[str, float] = {}
    warm = max(1, min(job["steps"] // 2, 20))
    begin = 0.0
    for step in range(1, job["steps"] + 1):
        if step == min(3, job["steps"]):
            begin = time.process_time()
        x = moved(images[rng.permutation(len(images))[: job["batch"]]], rng)
        with torch.no_grad():
            targets = teacher(x)
        ours = student(x)
        parts = {True: [], False: []}
        for name, other, kept in job["pairs"]:
            target = targets[other] if kept is None else targets[other].index_select(1, torch.tensor(kept))
            scale = scales.setdefault(name, float(target.var()))
            parts[name == job["output"]].append(((ours[name] - target) ** 2).mean() / scale)
        loss = sum(sum(p) / len(p) for p in parts.values() if p)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = job["rate"] * (
                step / warm if step <= warm else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, job["steps"] - warm)))
            )
        optimizer.step()
    seconds = (time.process_time() - begin) / max(1, job["steps"] - min(3, job["steps"]) + 1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_seconds": seconds, "peak_bytes": memory, "loss": float(loss)}))


if __name__ == "__main__":
    main()
