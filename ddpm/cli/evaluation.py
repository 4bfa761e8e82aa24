"""What `ddpm evaluate` holds a model against."""

import contextlib
from pathlib import Path
from typing import Any

from ddpm.cli import places
from ddpm.cli.run_config import RunConfig


def load_parts(run_config: RunConfig, run: Path) -> tuple[Any, Any, str]:
    """The training images of a run; the images to hold its samples against; and "test", or "training" without those."""
    training = places.load_data(run_config, run, "evaluate")
    with contextlib.suppress(ValueError):  # where there is no test part
        return training, run_config.load_data(train=False), "test"
    return training, training, "training"
