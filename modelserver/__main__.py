"""``python -m modelserver``."""

from modelserver.cli import main

main(prog_name="python -m modelserver")
