"""inspect --privacy: what a model file tells about whoever made it."""

from __future__ import annotations

from graphcompress.api.documents import LeakReport, PrivacyReport, TextKind
from graphcompress.api.inputs import AnyModel, open_model
from graphcompress.version import __version__

LONGEST = 80
"""Characters of an example."""
SAMPLE_BYTES = 1024


def _shortened(text: str) -> str:
    """At most LONGEST characters, and a sign where some are missing."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def privacy(model: AnyModel) -> PrivacyReport:
    """Every text of the file by kind, what looks private among them, and constants that may be samples. Raises ModelError where the file cannot be used."""
    from graphcompress.ir import constant_data, consumers, graphs
    from graphcompress.ir.analysis.privacy import leaks, texts

    source = open_model(model)
    found = texts(source.model)
    kinds = []
    for kind in dict.fromkeys(text.kind for text in found):
        own = [text.value for text in found if text.kind == kind]
        kinds.append(
            TextKind(kind=kind, count=len(own), bytes=sum(len(value.encode()) for value in own), example=_shortened(" ".join(max(own, key=len).split())))
        )
    samples = [
        name
        for graph in graphs(source.model)
        for name, constant in graph.initializers.items()
        if constant.nbytes >= SAMPLE_BYTES
        and (data := constant_data(constant)) is not None
        and str(getattr(data, "dtype_name", data.dtype)) == "uint8"
        and not any(node.op in ("DequantizeLinear", "Cast", "MatMulNBits") for node in consumers(constant))
    ]
    header = source.model.header
    return PrivacyReport(
        graphcompress=__version__,
        model=source.file,
        kinds=sorted(kinds, key=lambda kind: -kind.bytes),
        leaks=[LeakReport(what=leak.what, part=_shortened(leak.part), kind=leak.kind, count=leak.count) for leak in leaks(found)],
        training_information=len(header.training_info),
        samples=samples,
    )
