"""ONNX Runtime: any ONNX model."""
