"""Tensors in safetensors files: read whole and hashed, or left there and read piece by piece."""
