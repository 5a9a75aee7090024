"""Checkpoint to bundle: the only part that needs torch, timm and onnx."""
