"""``python -m modelserver doctor``: what is wrong with this machine."""

from __future__ import annotations

import click
import msgspec

from modelserver.tools.doctor.gpu import gpu_lines, gpu_report


@click.group("doctor")
def doctor_group() -> None:
    """Tell what is wrong with this machine; 'check' and 'inspect' are for models."""


@doctor_group.command("gpu")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_gpu(ctx: click.Context, *, as_json: bool) -> None:
    """Tell what the NVIDIA driver and TensorFlow see, and what is missing.

    TensorFlow is asked in a process of its own, some ten seconds a card. Exits with 1
    where it uses none.
    """
    report = gpu_report()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)))
    else:
        for line in gpu_lines(report):
            click.echo(line)
    ctx.exit(0 if report.ok else 1)
