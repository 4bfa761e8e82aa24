"""Files: whole or not at all, tensors as safetensors and everything else as JSON."""
