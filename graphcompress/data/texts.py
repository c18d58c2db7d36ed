"""Texts as feeds: tokenized by a `tokenizer.json`, cut and padded to what the model takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphcompress.data.dataset import Dataset, Entries, of_feeds
from graphcompress.data.held import Held, optional
from graphcompress.data.preparation import TextPreparation
from graphcompress.data.signature import Array, Signature, expected
from graphcompress.errors import DataError
from graphcompress.ir.model.element_types import numpy_dtype

NAMES = {
    "ids": ("input_ids", "ids", "tokens", "input_tokens", "token_ids"),
    "mask": ("attention_mask", "mask", "input_mask", "padding_mask"),
    "types": ("token_type_ids", "segment_ids", "type_ids"),
}
"""What inputs for token ids, masks and the numbers of sentences are called."""


def text_data(source: str, texts: Sequence[tuple[str, ...]], signature: Signature, preparation: TextPreparation | None, where: str = "line") -> Dataset:
    """Each text, or pair of texts, as one feed; for an input of type string the text itself. Raises DataError where there is no tokenizer, or inputs cannot be told apart."""
    if not texts:
        raise DataError(f"{source}: there is no text in it.")
    only = signature.required[0] if len(signature.required) == 1 else None
    if only is not None and only.dtype == "string":
        rank = 1 if only.shape is None else max(1, len(only.shape))
        entries: Callable[[tuple[str, ...]], Entries] = partial(_texts, only.name, rank)
    else:
        if preparation is None:
            raise DataError(_question(source, signature))
        roles = _roles(source, signature, preparation)
        entries = partial(_tokens, _encoder(source, signature, preparation, roles["ids"]), signature, roles)
    return of_feeds(source, texts, entries, [f"{source}, {where} {i + 1}" for i in range(len(texts))], signature)


def _texts(name: str, rank: int, texts: tuple[str, ...]) -> Entries:
    return contextlib.nullcontext({name: Held(np.array(texts).reshape((1,) * (rank - 1) + (-1,)))})


def _tokens(encoder: Any, signature: Signature, roles: dict[str, str], texts: tuple[str, ...]) -> Entries:
    return contextlib.nullcontext({roles[role]: Held(array) for role, array in _arrays(encoder, texts, signature, roles).items()})


class Refused:
    """Turns the plain `Exception` (this very class) that the library raises for files that it cannot use into a DataError."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: object) -> None:
        if kind is Exception:
            raise DataError(f"{self._message} ({' '.join(str(problem).split())[:200]}). Save it with tokenizer.save(path).") from problem


def _encoder(source: str, signature: Signature, preparation: TextPreparation, ids: str) -> Any:
    """The tokenizer with its length and padding. Raises DataError where the file is none."""
    tokenizers = optional("tokenizers", source)
    with Refused(f"{preparation.tokenizer}: this tokenizer cannot be read"):
        encoder = tokenizers.Tokenizer.from_file(str(preparation.tokenizer))
    shape = signature.specs[ids].shape or ()
    fixed = shape[-1] if shape and isinstance(shape[-1], int) else None
    length = preparation.length or fixed or (encoder.truncation or {}).get("max_length")
    pad = preparation.padding == "length" or (preparation.padding is None and (preparation.length is not None or fixed is not None))
    settings = encoder.padding or {}
    if pad and length is None:
        raise DataError(f'{source}: [text] padding = "length" needs a length, since neither the model nor the tokenizer states one.')
    encoder.enable_truncation(length) if length is not None else encoder.no_truncation()
    encoder.no_padding()
    if pad:
        token, number = settings.get("pad_token"), settings.get("pad_id")
        if token is None:
            token = next((t for t in ("[PAD]", "<pad>", "<|endoftext|>") if encoder.token_to_id(t) is not None), None)
            number = None if token is None else encoder.token_to_id(token)
        if token is None:
            raise DataError(
                f'{source}: texts have to be padded to {length} tokens, and {preparation.tokenizer} has no token for it. Set [text] padding = "none".'
            )
        encoder.enable_padding(length=length, pad_id=number, pad_token=token, direction=settings.get("direction", "right"))
    return encoder


def _arrays(encoder: Any, texts: tuple[str, ...], signature: Signature, roles: dict[str, str]) -> dict[str, Array]:
    encoding = encoder.encode(*texts)
    values = {"ids": encoding.ids, "mask": encoding.attention_mask, "types": encoding.type_ids}
    arrays = {}
    for role, name in roles.items():
        spec = signature.specs[name]
        array = np.array(values[role], numpy_dtype(spec.dtype or "int64"))
        arrays[role] = array[None] if spec.shape is None or len(spec.shape) == 2 else array
    return arrays


def _roles(source: str, signature: Signature, preparation: TextPreparation) -> dict[str, str]:
    """Which input takes the ids, the mask and the types. Raises DataError where that cannot be told."""
    roles: dict[str, str] = {str(role): name for role, name in preparation.inputs.items()}
    for role, names in NAMES.items():
        match = next((spec.name for spec in signature.required if spec.name.lower() in names and spec.name not in roles.values()), None)
        if role not in roles and match is not None:
            roles[role] = match
    open_inputs = [spec for spec in signature.required if spec.name not in roles.values()]
    if "ids" not in roles and len(open_inputs) == 1:
        roles["ids"] = open_inputs.pop().name
    wrong = [name for name in roles.values() if name not in signature.specs]
    if open_inputs or wrong or "ids" not in roles:
        needed = ", ".join(f"'{spec.name}' ({expected(spec)})" for spec in signature.required)
        raise DataError(
            f"{source}: the model needs {needed}, and which of these takes the token ids, the mask and the types cannot be told. Say it in a file text.toml and add --preprocess text.toml:"
            f'\n[text]\ntokenizer = "{preparation.tokenizer}"\ninputs.ids = "INPUT"\ninputs.mask = "INPUT"'
        )
    return roles


def _question(source: str, signature: Signature) -> str:
    needed = ", ".join(f"'{spec.name}' ({expected(spec)})" for spec in signature.required)
    return (
        f"{source}: these are texts, and the model needs {needed}: which numbers a text becomes is its tokenizer's business. Add --preprocess tokenizer.json (the file beside the model that "
        "was exported, or tokenizer.save_pretrained(FOLDER)); with another length or inputs of other names in a file text.toml:\n"
        '[text]\ntokenizer = "tokenizer.json"\nlength = 128\npadding = "length"'
    )
