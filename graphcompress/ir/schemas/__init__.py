"""What ONNX's schemas and onnxruntime say of operators and their versions."""
