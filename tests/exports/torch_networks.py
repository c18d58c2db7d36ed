"""Networks of plain PyTorch that `make_torch` exports: recurrent ones, images, sound, 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 128  # of tokens and frames: wide enough for INT8 to pay, else nothing would be quantized


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.net = kind(20, 48, batch_first=True, **options)
        self.head = nn.Linear(48 * (1 + bool(options.get("bidirectional"))), 128)

    def forward(self, sequence: Tensor) -> Tensor:
        states, _ = self.net(sequence)
        return self.head(states)


class Steps(nn.Module):
    """A cell in a scripted loop, with a branch that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(20 + 24, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, sequence: Tensor) -> Tensor:
        state = torch.zeros(sequence.size(0), 24)
        for step in range(sequence.size(1)):
            state = torch.tanh(self.cell(torch.cat([sequence[:, step], state], 1)))
        result = self.head(state)
        if result.mean() > 0:
            result = torch.softmax(result, 1)
        else:
            result = torch.relu(result)
        return result


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, activation: nn.Module | None = None) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation] if activation else []))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, 3, stride, activation=nn.ReLU()), conv(outputs, outputs))
        self.skip = conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.body(image) + self.skip(image))


def resnet() -> nn.Module:
    return nn.Sequential(
        conv(3, 16, 7, 2, activation=nn.ReLU()),
        nn.MaxPool2d(3, 2, 1),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), nn.ReLU(), nn.Conv2d(width // 4, width, 1), nn.Hardsigmoid())

    def forward(self, image: Tensor) -> Tensor:
        return image * self.gate(image)


class Inverted(nn.Module):
    """Expand, depthwise convolution, squeeze and excitation, project: MobileNetV3's block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = 4 * inputs
        self.body = nn.Sequential(
            conv(inputs, width, 1, activation=nn.Hardswish()),
            conv(width, width, 3, stride, groups=width, activation=nn.Hardswish()),
            Excite(width),
            conv(width, outputs, 1),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, image: Tensor) -> Tensor:
        return image + self.body(image) if self.skip else self.body(image)


def mobilenet() -> nn.Module:
    return nn.Sequential(
        conv(3, 32, 3, 2, activation=nn.Hardswish()),
        Inverted(32, 32, 1),
        Inverted(32, 64, 2),
        Inverted(64, 64, 1),
        conv(64, 192, 1, activation=nn.SiLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(192, 10),
    )


class UNet(nn.Module):
    """Two levels; the way up is resized to the size of the skip connection, once by interpolation, once by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 16, activation=nn.LeakyReLU(0.1))
        self.second = conv(16, 32, 3, 2, activation=nn.LeakyReLU(0.1))
        self.third = conv(32, 48, 3, 2, activation=nn.LeakyReLU(0.1))
        self.up = nn.ConvTranspose2d(48, 32, 2, 2)
        self.middle = conv(64, 32, activation=nn.PReLU(32))
        self.last = nn.Sequential(conv(48, 16, activation=nn.ReLU()), nn.Conv2d(16, 2, 1))

    def forward(self, image: Tensor) -> Tensor:
        first = self.first(image)
        second = self.second(first)
        up = self.up(self.third(second))
        up = F.pad(up, (0, second.shape[3] - up.shape[3], 0, second.shape[2] - up.shape[2]))
        middle = self.middle(torch.cat([up, second], 1))
        up = F.interpolate(middle, size=first.shape[2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(self.last(torch.cat([up, first], 1)))


class Detector(nn.Module):
    """Two scales, boxes relative to a grid that is made from the size of the image, the best ten by score."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, 3, 2, activation=nn.SiLU()), conv(16, 32, 3, 2, activation=nn.SiLU()))
        self.down = conv(32, 32, 3, 2, activation=nn.SiLU())
        self.near, self.far = nn.Conv2d(32, 4 + 6, 1), nn.Conv2d(32, 4 + 6, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def level(self, raw: Tensor, stride: int) -> Tensor:
        batch, channels, height, width = raw.shape
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([x, y], -1).reshape(1, height * width, 2).to(raw.dtype)
        raw = raw.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        centre = (raw[..., :2].sigmoid() * 2 - 0.5 + grid) * stride
        size = (raw[..., 2:4].sigmoid() * 2) ** 2 * stride
        return torch.cat([centre - size / 2, centre + size / 2, raw[..., 4:].sigmoid()], 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        near = self.body(image)
        far = self.down(near)
        far = far + self.pool(far)
        near = near + F.interpolate(far, scale_factor=2.0, mode="nearest")
        boxes = torch.cat([self.level(self.near(near), 4), self.level(self.far(far), 8)], 1)
        scores, order = boxes[..., 4:].max(2)[0].topk(10, 1)
        return scores, boxes.gather(1, order[..., None].expand(-1, -1, 10))


class Attention(nn.Module):
    """A transformer layer over states [batch, time, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width))

    def forward(self, states: Tensor) -> Tensor:
        batch, time, width = states.shape
        query, key, value = self.qkv(self.before(states)).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, time, width)
        states = states + self.out(mixed)
        return states + self.body(self.after(states))


class Sound(nn.Module):
    """Strided convolutions over a waveform, group normalization, a weight-normalized convolution, a transformer layer: a small wav2vec."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(1, 32, 10, 5), nn.GroupNorm(32, 32), nn.GELU(), nn.Conv1d(32, WIDTH, 3, 2), nn.GELU())
        self.position = nn.utils.parametrizations.weight_norm(nn.Conv1d(WIDTH, WIDTH, 4, padding=2, groups=4))
        self.layer = Attention(WIDTH, 4)
        self.head = nn.Linear(WIDTH, 12)

    def forward(self, wave: Tensor) -> Tensor:
        states = self.front(wave[:, None])
        states = (states + F.gelu(self.position(states)[..., :-1])).transpose(1, 2)
        return F.log_softmax(self.head(self.layer(states)), -1)


class Half(nn.Module):
    """Weights and arithmetic in 16 bits between inputs and outputs in 32."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 8)).half()

    def forward(self, sequence: Tensor) -> Tensor:
        return torch.softmax(self.net(sequence.half()), -1).float()
