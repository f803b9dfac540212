"""The commands of the pages on import and on the doctor do what the pages say."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelserver.tools.cli import main
from support import foreign_models, tiny_graphs

DOCS = Path(__file__).parents[2] / "docs"


def commands(page):
    """The command lines of a page's shell blocks, without ``python -m modelserver``."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert all(line[:3] == ["python", "-m", "modelserver"] for line in lines)
    return [line[3:] for line in lines]


def outcome(arguments):
    """Call the command line, which must be content."""
    environ = {"ISOLATION": "inline", "XDG_CACHE_HOME": str(Path("cache").absolute())}
    result = CliRunner().invoke(main, arguments, env=environ)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a folder ``models``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_FOLDER", raising=False)
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.mark.real
def test_the_commands_of_the_import_page(here):
    """A model is brought, and a label map is made."""
    foreign_models.detector(here / "my_saved_model")
    (here / "labels.txt").write_text("seal\nsea lion\n")
    for line in commands("import.md"):
        outcome(line)
    made = sorted(path.name for path in (here / "models").iterdir())
    assert made == ["seals.frozen.pb", "seals.label_map.pbtxt"]
    assert (here / "seals.label_map.pbtxt").read_text() == (
        here / "models" / "seals.label_map.pbtxt"
    ).read_text()


@pytest.mark.real
def test_the_commands_of_the_doctors_page(here):
    """Both look at what lies in the folder."""
    inspecting, checking = commands("doctor.md")
    tiny_graphs.write(here / inspecting[1], tiny_graphs.echo_detector())
    assert "image_tensor" in outcome(inspecting)
    assert "labels-none" in outcome(checking)


@pytest.mark.parametrize("page", ["import.md", "doctor.md"])
def test_every_option_of_a_page_is_there(page):
    """And every option of the commands is on a page."""
    text = (DOCS / page).read_text()
    named = set(re.findall(r"--[a-z][a-z-]*", text))
    pages = {"import.md": ("import", "labels"), "doctor.md": ("inspect", "check")}
    options = {
        option
        for name in pages[page]
        for parameter in main.get_command(None, name).params
        for option in parameter.opts
        if option.startswith("--")
    }
    assert named - options <= {"--samples"}
    assert options <= named | {"--name"}
