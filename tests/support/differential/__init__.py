"""Random ONNX graphs, run before and after `simplify`, `quantize` and `opsets.lift`: `python -m differential --help` (with tests/support on the path)."""
