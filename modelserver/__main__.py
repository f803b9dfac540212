"""``python -m modelserver``."""

from modelserver.tools.cli import main

main(prog_name="python -m modelserver")
