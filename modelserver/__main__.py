"""``python -m modelserver``."""

from modelserver.core.prerequisites import checked

with checked():
    from modelserver.tools.cli import main

main(prog_name="python -m modelserver")
