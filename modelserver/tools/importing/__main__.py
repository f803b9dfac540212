"""The conversion's own process: one source in, one frozen graph out."""

from __future__ import annotations

from pathlib import Path

import click

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import efficientnet, ssdlite

CONVERTERS = {"ssdlite": ssdlite.convert, "efficientnet": efficientnet.convert}


@click.command()
@click.argument("kind", type=click.Choice(sorted(CONVERTERS)))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def main(kind: str, source: Path, target: Path) -> None:
    """Convert the model of KIND at SOURCE and write the frozen graph to TARGET."""
    try:
        target.write_bytes(CONVERTERS[kind](source))
    except ConversionError as err:
        raise click.ClickException(str(err)) from err
    except OSError as err:
        raise click.ClickException(f"{err.filename}: {err.strerror}") from err


if __name__ == "__main__":
    main(prog_name="modelserver.tools.importing")
