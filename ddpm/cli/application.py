"""The application: typer's, which says its words on any code page, and to whoever still listens."""

from typing import Any

import typer

from ddpm.io.streams import patient_streams


class Application(typer.Typer):
    """A `typer.Typer` that does not end in an error because `head` has read enough, or a letter cannot be shown."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Run the command."""
        with patient_streams():
            return super().__call__(*args, **keywords)
