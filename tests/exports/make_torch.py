"""Exports of PyTorch, by both of its exporters, and of transformers: random weights, small configurations, dynamic axes.

make_torch.py FOLDER NAME...      run by an interpreter that has torch, transformers, onnx and onnxscript
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import saving
import torch
import transformers as hf
from torch import Tensor, nn
from torch_networks import WIDTH, Detector, Half, Recurrent, Sound, Steps, UNet, mobilenet, resnet

SIDE = 64  # of images, where it is fixed

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]  # of the dynamic axes, by symbol
Axes = Mapping[str, Mapping[int, str]]  # of an input or output: axis -> symbol
Feed = Callable[[Sizes, np.random.Generator], dict[str, Array]]

VOCABULARY = 99


def export(
    module: nn.Module, feed: Feed, axes: Axes, outputs: Sequence[str], first: Sizes, second: Sizes, *, dynamo: bool, opset: int
) -> Callable[[Path, str], None]:
    """A function (folder, name) that exports `module` and writes its feeds at the `first` and the `second` sizes."""

    def write(folder: Path, name: str) -> None:
        module.eval()
        example = feed(first, np.random.default_rng(0))
        inputs = tuple(torch.from_numpy(array) for array in example.values())
        file = io.BytesIO()
        if dynamo:
            shapes = tuple(dict(axes.get(key, {})) or None for key in example)
            program = torch.onnx.export(
                module, inputs, dynamo=True, dynamic_shapes=shapes, input_names=list(example), output_names=list(outputs), opset_version=opset, verbose=False
            )
            assert program is not None
            model = program.model_proto
        else:
            torch.onnx.export(module, inputs, file, dynamo=False, dynamic_axes=axes, input_names=list(example), output_names=list(outputs), opset_version=opset)
            model = onnx.load_model_from_string(file.getvalue())
        saving.write(folder, name, model, lambda which, generator: feed((first, second)[which], generator))
        np.savez(folder / f"{name}.gradients.npz", **gradients(module, example))

    return write


def gradients(module: nn.Module, example: Mapping[str, Array]) -> dict[str, Array]:
    """Torch's own gradients of the first output times a random cotangent: "input.NAME" and "cotangent", by their names the gradients of parameters and ("of.NAME") of inputs of floats, and
    ("digest.NAME") what tells a parameter's value: the exporter writes equal ones once, and some with a normalization folded in."""
    inputs = {key: torch.from_numpy(array.copy()).requires_grad_(array.dtype.kind == "f") for key, array in example.items()}
    module.zero_grad()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            part.padding_idx = None  # of which torch leaves out the gradient
    result = module(*inputs.values())
    output = result[0] if isinstance(result, tuple) else result
    cotangent = torch.from_numpy(np.random.default_rng(1).standard_normal(output.shape)).to(output.dtype)
    output.backward(cotangent)
    names = Counter(
        id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False)
    )  # what is used twice, once transposed, is two in the file
    known = {key: parameter.grad for key, parameter in module.named_parameters() if names[id(parameter)] == 1} | {
        f"of.{key}": tensor.grad for key, tensor in inputs.items()
    }
    arrays = {key: gradient.numpy() for key, gradient in known.items() if gradient is not None}
    digests = {f"digest.{key}": np.uint32(zlib.crc32(parameter.detach().numpy().tobytes())) for key, parameter in module.named_parameters() if key in arrays}
    return {**arrays, **digests, **{f"input.{key}": array for key, array in example.items()}, "cotangent": cotangent.numpy()}


def images(sizes: Sizes, generator: np.random.Generator) -> dict[str, Array]:
    shape = (sizes.get("batch", 1), 3, sizes.get("height", SIDE), sizes.get("width", SIDE))
    return {"image": generator.standard_normal(shape).astype(np.float32)}


def features(width: int) -> Feed:
    def feed(sizes: Sizes, generator: np.random.Generator) -> dict[str, Array]:
        return {"sequence": generator.standard_normal((sizes["batch"], sizes["time"], width)).astype(np.float32)}

    return feed


def tokens(sizes: Sizes, generator: np.random.Generator) -> dict[str, Array]:
    shape = (sizes["batch"], sizes["time"])
    mask = np.ones(shape, np.int64)
    mask[-1, shape[1] // 2 + 1 :] = 0
    return {"input_ids": generator.integers(0, VOCABULARY, shape), "attention_mask": mask}


# --- transformers -------------------------------------------------------------------------------------------------------------------------


class Text(nn.Module):
    """A transformers model of tokens and a mask: its first output."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **self.options)[0]


class Cached(nn.Module):
    """A decoder that is given the keys and values of the tokens before, and returns them with its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = hf.DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        return (result.logits, *(tensor for layer in result.past_key_values.layers for tensor in (layer.keys, layer.values)))


class Pixels(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(pixel_values=image)[0]


def text(model: Callable[[], Any], output: str, *, dynamo: bool, opset: int = 17, **options: Any) -> Callable[[Path, str], None]:
    def write(folder: Path, name: str) -> None:
        axes = {key: {0: "batch", 1: "time"} for key in ("input_ids", "attention_mask", output)}
        export(Text(model(), **options), tokens, axes, [output], {"batch": 2, "time": 30}, {"batch": 3, "time": 41}, dynamo=dynamo, opset=opset)(folder, name)

    return write


def bert(layers: int = 2) -> Any:
    return hf.BertModel(
        hf.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * WIDTH,
            max_position_embeddings=64,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    )


def gpt2(layers: int = 2) -> Any:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=layers, n_head=2, n_positions=64, attn_implementation="eager", bos_token_id=1, eos_token_id=2
        )
    )


def t5() -> Any:
    return hf.T5EncoderModel(
        hf.T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=WIDTH // 2, d_ff=2 * WIDTH, num_layers=2, num_heads=2, attn_implementation="eager")
    )


def llama() -> Any:
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            attn_implementation="eager",
        )
    )


def distilbert() -> Any:
    return hf.DistilBertModel(
        hf.DistilBertConfig(
            vocab_size=VOCABULARY, dim=WIDTH, hidden_dim=2 * WIDTH, n_layers=2, n_heads=2, max_position_embeddings=64, attn_implementation="eager"
        )
    )


def vit(folder: Path, name: str) -> None:
    model = hf.ViTModel(
        hf.ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * WIDTH,
            image_size=SIDE,
            patch_size=8,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    )
    axes = {"image": {0: "batch"}, "states": {0: "batch"}}
    export(Pixels(model), images, axes, ["states"], {"batch": 2}, {"batch": 5}, dynamo=False, opset=17)(folder, name)


def gpt2_cache(folder: Path, name: str) -> None:
    """The cache is empty in the second shape, as at the first step of a text."""
    layers, heads, head = 2, 2, WIDTH // 2

    def feed(sizes: Sizes, generator: np.random.Generator) -> dict[str, Array]:
        batch, time, past = sizes["batch"], sizes["time"], sizes["past"]
        arrays = {"input_ids": generator.integers(0, VOCABULARY, (batch, time)), "attention_mask": np.ones((batch, past + time), np.int64)}
        for layer in range(layers):
            for part in ("key", "value"):
                arrays[f"past.{layer}.{part}"] = generator.standard_normal((batch, heads, past, head)).astype(np.float32)
        return arrays

    pasts = [f"past.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    presents = [name.replace("past", "present") for name in pasts]
    axes = {
        "input_ids": {0: "batch", 1: "time"},
        "attention_mask": {0: "batch", 1: "past + time"},
        "logits": {0: "batch", 1: "time"},
        **{key: {0: "batch", 2: "past"} for key in pasts},
        **{key: {0: "batch", 2: "past + time"} for key in presents},
    }
    first, second = {"batch": 2, "time": 20, "past": 6}, {"batch": 1, "time": 25, "past": 0}
    export(Cached(gpt2(layers)), feed, axes, ["logits", *presents], first, second, dynamo=False, opset=17)(folder, name)


# --- recurrent ----------------------------------------------------------------------------------------------------------------------------


def recurrent(module: Callable[[], nn.Module], *, dynamo: bool, opset: int, steps: bool = True) -> Callable[[Path, str], None]:
    def write(folder: Path, name: str) -> None:
        axes = {"sequence": {0: "batch", 1: "time"}, "scores": {0: "batch", 1: "time"} if steps else {0: "batch"}}
        export(module(), features(20), axes, ["scores"], {"batch": 4, "time": 30}, {"batch": 3, "time": 18}, dynamo=dynamo, opset=opset)(folder, name)

    return write


# --- images -------------------------------------------------------------------------------------------------------------------------------


def picture(
    module: Callable[[], nn.Module], outputs: Mapping[str, Mapping[int, str]], *, dynamo: bool, opset: int, free: str = "batch height width"
) -> Callable[[Path, str], None]:
    def write(folder: Path, name: str) -> None:
        axes = {"image": {axis: symbol for axis, symbol in ((0, "batch"), (2, "height"), (3, "width")) if symbol in free}, **outputs}
        first, second = {"batch": 2, "height": 64, "width": 96}, {"batch": 3, "height": 96, "width": 72}
        first, second = ({key: size for key, size in sizes.items() if key in free} for sizes in (first, second))
        net = module()
        with torch.no_grad():  # running statistics that are not 0 and 1
            net.train()(torch.randn(8, 3, 64, 64))
        export(net, images, axes, list(outputs), first, second, dynamo=dynamo, opset=opset)(folder, name)

    return write


# --- sound and halves ---------------------------------------------------------------------------------------------------------------------


def sound(folder: Path, name: str) -> None:
    def feed(sizes: Sizes, generator: np.random.Generator) -> dict[str, Array]:
        return {"wave": generator.standard_normal((sizes["batch"], sizes["samples"])).astype(np.float32)}

    axes = {"wave": {0: "batch", 1: "samples"}, "scores": {0: "batch", 1: "frames"}}
    export(Sound(), feed, axes, ["scores"], {"batch": 2, "samples": 600}, {"batch": 1, "samples": 433}, dynamo=False, opset=18)(folder, name)


EXPORTS: dict[str, Callable[[Path, str], None]] = {
    "bert_script": text(bert, "states", dynamo=False),
    "bert_dynamo": text(bert, "states", dynamo=True, opset=18),
    "gpt2_script": text(gpt2, "logits", dynamo=False, opset=14, use_cache=False),
    "gpt2_cache_script": gpt2_cache,
    "t5_encoder_script": text(t5, "states", dynamo=False, opset=13),
    "llama_script": text(llama, "logits", dynamo=False, use_cache=False),
    "llama_dynamo": text(llama, "logits", dynamo=True, opset=20, use_cache=False),
    "distilbert_dynamo": text(distilbert, "states", dynamo=True, opset=18),
    "vit_script": vit,
    "lstm_script": recurrent(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), dynamo=False, opset=14),
    "gru_dynamo": recurrent(lambda: Recurrent(nn.GRU), dynamo=True, opset=18),
    "loop_script": recurrent(lambda: torch.jit.script(Steps()), dynamo=False, opset=15, steps=False),
    "half_dynamo": recurrent(Half, dynamo=True, opset=18),
    "resnet_script": picture(resnet, {"scores": {0: "batch"}}, dynamo=False, opset=11),
    "resnet_dynamo": picture(resnet, {"scores": {0: "batch"}}, dynamo=True, opset=18, free="batch"),
    "mobilenet_script": picture(mobilenet, {"scores": {0: "batch"}}, dynamo=False, opset=16, free="batch"),
    "mobilenet_dynamo": picture(mobilenet, {"scores": {0: "batch"}}, dynamo=True, opset=21),
    "unet_script": picture(UNet, {"mask": {0: "batch", 2: "height", 3: "width"}}, dynamo=False, opset=17),
    "detector_script": picture(Detector, {"scores": {0: "batch"}, "boxes": {0: "batch"}}, dynamo=False, opset=17),
    "detector_dynamo": picture(Detector, {"scores": {0: "batch"}, "boxes": {0: "batch"}}, dynamo=True, opset=18),
    "sound_script": sound,
    "big_transformer": text(lambda: bert(73), "states", dynamo=False),
}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    hf.utils.logging.set_verbosity_error()
    torch.set_num_threads(2)

    def seeded(write: Callable[[Path, str], None]) -> Callable[[Path, str], None]:
        def call(folder: Path, name: str) -> None:
            torch.manual_seed(0)
            write(folder, name)

        return call

    saving.main({name: seeded(write) for name, write in EXPORTS.items()})
