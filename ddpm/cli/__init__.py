"""The command `ddpm`."""

from ddpm.cli.app import app, main

__all__ = ["app", "main"]
