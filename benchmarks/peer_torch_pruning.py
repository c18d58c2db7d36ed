"""Torch-Pruning, global magnitudes, with BatchNormalization re-estimated, in an environment with torch and torch-pruning: MODEL DATA OUT PART_OF_MACS

It prunes modules of PyTorch, so that each task's network is written here and filled with the weights of its file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
import torch_pruning
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

STEPS = 200
"""In so many steps all channels would go: the goal is met closely."""
MOST_OF_A_LAYER = 0.9
EPSILON = 1e-5
BATCH = 64


class Plain(nn.Module):
    """cifar10_cnn_jax: channels last at its input and where it is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 32), (32, 64), (64, 128), (128, 128)))
        self.hidden = nn.Linear(2048, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        for conv, pool in zip(self.convs, (True, True, False, True), strict=True):
            x = F.relu(conv(x))
            x = F.max_pool2d(x, 2) if pool else x
        return self.head(F.relu(self.hidden(x.flatten(1))))

    def channels_first(self) -> None:
        """Torch-Pruning takes a flattened axis to be channels times positions: the rows of the hidden layer are put in that order."""
        weight = self.hidden.weight.data
        self.hidden.weight.data = weight.reshape(-1, 4, 4, 128).permute(0, 3, 1, 2).reshape(weight.shape)


class Separable(nn.Module):
    """Depthwise and pointwise convolution; TensorFlow pads a stride of two at the end only."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs, EPSILON)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(outputs, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1))
        return F.relu6(self.pointwise_norm(self.pointwise(F.relu6(self.norm(self.depthwise(x))))))


class Mobile(nn.Module):
    """cifar10_dwcnn_keras."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(32, EPSILON)
        self.blocks = nn.ModuleList(Separable(*sizes) for sizes in ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)))
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad((x / 127.5 - 1).permute(0, 3, 1, 2), (0, 1, 0, 1))
        x = F.relu6(self.norm(self.stem(x)))
        for block, residual in zip(self.blocks, (False, False, True, False, True), strict=True):
            x = x + block(x) if residual else block(x)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # The scale is that of the whole head: what the file computes.
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * 0.25, -1)
        return self.projection((weights @ v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Vision(nn.Module):
    """mnist_vit."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 64, 4, 4)
        self.pos, self.cls = nn.Parameter(torch.zeros(1, 50, 64)), nn.Parameter(torch.zeros(1, 1, 64))
        self.blocks = nn.Sequential(*(TransformerBlock(64, 4) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


def residual() -> nn.Module:
    """cifar10_resnet: the class that was trained, which takes its widths from the command line."""
    sys.argv[1:] = ["32,64,128", "1"]
    from train_resnet import Net

    net: nn.Module = Net()
    return net


NETWORKS = {"cifar10_resnet": residual, "cifar10_cnn_jax": Plain, "cifar10_dwcnn_keras": Mobile, "mnist_vit": Vision}


def main(path: str, data: str, out: str, part: str) -> None:
    sys.path.append(str(Path(path).resolve().parents[1] / "make"))
    net = NETWORKS[Path(path).resolve().parent.name]().eval()
    torch.set_num_threads(1)
    arrays = np.load(data)
    (name,) = (x for x in arrays.files if not x.startswith("_"))
    inputs = torch.from_numpy(arrays[name])
    model = onnx.load(path)
    with torch.no_grad():
        fill(net, model)
        if isinstance(net, Plain):
            net.channels_first()
        reference = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {name: inputs[:BATCH].numpy()})[0]
        np.testing.assert_allclose(net(inputs[:BATCH]).numpy(), reference, rtol=1e-3, atol=1e-3, err_msg="the module does not compute what the file does")
        if isinstance(net, Mobile):
            unfold(net, inputs)
    prune(net, inputs[:1], float(part) * macs(net, inputs[:1]))
    with torch.no_grad():
        estimate(net, inputs)
    names = [name, model.graph.output[0].name]
    torch.onnx.export(
        net,
        (inputs[:1],),
        out,
        dynamo=False,
        opset_version=17,
        input_names=names[:1],
        output_names=names[1:],
        dynamic_axes={x: {0: "batch"} for x in names},
    )


def fill(net: nn.Module, model: onnx.ModelProto) -> None:
    """Weights of the file, in the order of its nodes, to the layers of `net`, in the order of its modules. A scale and a bias behind a convolution are a
    BatchNormalization that was folded."""
    constants = {x.name: torch.from_numpy(numpy_helper.to_array(x).copy()) for x in model.graph.initializer}
    constants |= {node.output[0]: constants[node.input[0]] for node in model.graph.node if node.op_type == "Identity"}
    for name, parameter in net.named_parameters(recurse=False):
        parameter.copy_(constants[name])
    layers: Iterator[nn.Module] = (m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm))
    layer: nn.Module | None = None
    for node in model.graph.node:
        arrays = [constants[x] for x in node.input if x in constants and constants[x].is_floating_point() and constants[x].numel() > 1]
        if not arrays or node.op_type == "Identity" or arrays[0].dim() == 3:  # three axes: parameters of `net` itself
            continue
        if node.op_type == "Add":
            layer.bias.copy_(arrays[0].flatten())
            continue
        layer = next(layers)
        transpose = node.op_type == "MatMul" or (node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute))
        layer.weight.copy_(arrays[0].T if transpose else arrays[0].reshape(layer.weight.shape))
        if len(arrays) > 1:
            layer = next(layers) if layer.bias is None else layer
            layer.bias.copy_(arrays[1])
        if len(arrays) == 4:
            layer.running_mean.copy_(arrays[2])
            layer.running_var.copy_(arrays[3])


def unfold(net: nn.Module, inputs: Tensor) -> None:
    """Give every BatchNormalization the statistics of its inputs, and such a scale and bias that it computes what it did."""

    def measure(norm: nn.Module, arguments: tuple[Tensor]) -> None:
        mean, variance = arguments[0].mean((0, 2, 3)), arguments[0].var((0, 2, 3), unbiased=False)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.bias.add_(norm.weight * mean)
        norm.weight.mul_((variance + EPSILON).sqrt())

    hooks = [m.register_forward_pre_hook(measure) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net(inputs)
    for hook in hooks:
        hook.remove()


def macs(net: nn.Module, example: Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(example)
    return counter.get_total_flops() / 2


def prune(net: nn.Module, example: Tensor, goal: float) -> None:
    """Remove channels with the least norms until at most `goal` MACs are left.

    Of a transformer hidden units and dimensions of heads go, and its width stays, as in the `bottleneck` mode of Torch-Pruning's own example.
    """
    blocks = list(net.blocks) if isinstance(net, Vision) else []
    ends = [net.get_submodule("fc" if hasattr(net, "fc") else "head"), *([net.patch] if isinstance(net, Vision) else [])]
    pruner = torch_pruning.pruner.BasePruner(
        net,
        example,
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=MOST_OF_A_LAYER,
        iterative_steps=STEPS,
        ignored_layers=[*ends, *(b.attention.projection for b in blocks), *(b.down for b in blocks)],
        num_heads={b.attention.qkv: b.attention.heads for b in blocks},
    )
    for _ in range(STEPS):
        if macs(net, example) <= goal:
            return
        pruner.step()


def estimate(net: nn.Module, inputs: Tensor) -> None:
    """Statistics of every BatchNormalization anew."""
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    net.train()
    for batch in inputs.split(BATCH):
        net(batch)
    net.eval()


if __name__ == "__main__":
    main(*sys.argv[1:])
