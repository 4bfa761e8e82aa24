"""What a chapter runs on, said in its set-up cell on Colab."""

import torch

LIMIT = 3  # minutes; tools/execute_notebooks.py refuses a chapter that takes longer


def describe() -> str:
    """Name the GPU if there is one, and say how long a chapter may take."""
    limit = f"every chapter takes at most {LIMIT} minutes on the two CPU cores with which the book is tested"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return f"GPU: {name}. Some chapters that train or draw much take it by themselves; {limit}."
    return f"No GPU: {limit}. To choose one: Runtime, Change runtime type."
