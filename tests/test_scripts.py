"""The scripts, on a copy of the project with a Python that only notes what it is asked.

The fake Python makes virtual environments of itself, so that a whole set-up takes
milliseconds and no network.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = 120
TOOLS = (
    "bash",
    "cat",
    "cksum",
    "cp",
    "dirname",
    "env",
    "flock",
    "mkdir",
    "rm",
    "touch",
)

# What it is asked stands in $CALLS, one call a line; $FAILS holds words of calls that
# fail.
PYTHON = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$CALLS"
if [[ -n ${FAILS:-} && "$*" == *$FAILS* ]]; then echo "no luck" >&2; exit 9; fi
case "$*" in
  -V | -VV) echo "Python 3.12.1" ;;
  "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  "-m modelserver models install"*) mkdir -p "$MODEL_FOLDER"; touch "$MODEL_FOLDER/d.pb" ;;
  *app*.py) echo "serving $1 from $PWD with $MODEL_FOLDER and $UPLOAD_FOLDER" ;;
  "-m pytest"*) echo "1 passed"; exit "${TESTS:-0}" ;;
esac
"""
SHIM = "#!/usr/bin/env bash\necho 'pyenv: version not installed' >&2\nexit 127\n"


def program(path, text):
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A copy of the scripts, with a PATH that holds little else than a fake Python."""

    def __init__(self, folder):
        self.root = folder / "pro ject"
        for part in ("script", ".ci"):
            shutil.copytree(ROOT / part, self.root / part)
        for file in ROOT.glob("requirements*.txt"):
            shutil.copy(file, self.root)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        program(self.bin / "python3.13", SHIM)
        program(self.bin / "python3.12", PYTHON)
        self.calls_file = folder / "calls"

    def start(self, script, *arguments, cwd=None, **environ):
        """Start a script."""
        variables = {"PATH": str(self.bin), "CALLS": str(self.calls_file)}
        return subprocess.Popen(
            [self.root / script, *arguments],
            cwd=cwd or self.root,
            env=variables | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *arguments, **more):
        """Run a script; give its code, stdout and stderr."""
        process = self.start(script, *arguments, **more)
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err

    def calls(self, words=""):
        """What Python was asked since the last time, where it holds these words."""
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.write_text("")
        return [line for line in lines if words in line]


@pytest.fixture
def project(tmp_path):
    """A fresh clone."""
    return Project(tmp_path)


def test_a_fresh_clone_is_set_up(project):
    """The first run makes .venv, installs packages and default models, and says so."""
    code, out, err = project.run("script/bootstrap")
    assert (code, out) == (0, "")
    assert "making .venv with Python 3.12.1" in err
    calls = "\n".join(project.calls())
    assert re.search(
        r"-m venv .*-r requirements(-cpu)?.txt.*models install all", calls, re.DOTALL
    )
    assert "requirements-dev" not in calls
    assert (project.root / "models" / "d.pb").exists()


def test_the_second_run_does_nothing(project):
    """Once set up, a run is silent and installs nothing."""
    project.run("script/bootstrap")
    project.calls()
    assert project.run("script/bootstrap") == (0, "", "")
    assert project.calls("-m") == []


def test_the_test_tools_come_when_asked_for(project):
    """--dev adds the test tools once, and a server afterwards needs nothing."""
    project.run("script/bootstrap")
    project.calls()
    project.run("script/bootstrap", "--dev")
    assert len(project.calls("pip install")) == 1
    project.run("script/bootstrap", "--dev")
    project.run("script/bootstrap")
    assert project.calls("-m") == []


def test_changed_requirements_are_installed(project):
    """Another pin makes the environment anew, so that nothing old stays."""
    project.run("script/bootstrap")
    project.calls()
    with (project.root / "requirements-base.txt").open("a") as file:
        file.write("# changed\n")
    project.run("script/bootstrap")
    assert len(project.calls("-m venv")) == 1


@pytest.mark.parametrize("damage", ["bin/python", ".stamp"])
def test_a_broken_environment_is_made_anew(project, damage):
    """An environment without its Python, or interrupted on the way, is replaced."""
    project.run("script/bootstrap")
    project.calls()
    (project.root / ".venv" / damage).unlink()
    assert project.run("script/bootstrap")[0] == 0
    assert len(project.calls("-m venv")) == 1


def test_a_moved_project_is_set_up_again(project):
    """A virtual environment holds absolute paths: a moved project gets a new one."""
    project.run("script/bootstrap")
    project.calls()
    project.root = project.root.rename(project.root.with_name("moved"))
    project.run("script/bootstrap")
    assert len(project.calls("-m venv")) == 1


@pytest.mark.parametrize("step", ["pip install", "requirements-dev"])
def test_packages_without_network(project, step):
    """When pip fails, the run says so and fails; the next one starts over."""
    code, _, err = project.run("script/bootstrap", "--dev", FAILS=step)
    assert code == 1
    assert "no luck" in err
    assert "Is there a network?" in err.splitlines()[-1]
    project.calls()
    assert project.run("script/bootstrap", "--dev")[0] == 0
    assert len(project.calls("-m venv")) == 1


def test_models_without_network(project):
    """When the default models cannot be had, the run says what to do and fails."""
    code, _, err = project.run("script/bootstrap", FAILS="models install")
    assert code == 1
    assert "put a graph into" in err.splitlines()[-1]
    project.calls()
    assert project.run("script/bootstrap")[0] == 0
    assert project.calls("-m venv") == []


def test_own_models_are_enough(project, tmp_path):
    """Where MODEL_FOLDER holds a graph, no default model is installed."""
    (tmp_path / "mine.frozen.pb").touch()
    project.run("script/bootstrap", MODEL_FOLDER=str(tmp_path))
    assert project.calls("models install") == []


def test_models_go_where_the_operator_said(project, tmp_path):
    """A relative MODEL_FOLDER is taken from the folder the operator is in."""
    project.run("script/bootstrap", cwd=tmp_path, MODEL_FOLDER="my models")
    assert (tmp_path / "my models" / "d.pb").exists()


def test_no_python_at_all(project):
    """Without a fitting Python the run says which ones fit, and fails."""
    program(project.bin / "python3.12", SHIM)
    code, _, err = project.run("script/bootstrap")
    assert code == 1
    assert "no Python 3.10 to 3.13" in err
    assert not (project.root / ".venv").exists()


@pytest.mark.parametrize("driver", [True, False])
def test_the_driver_decides_about_tensorflow(project, driver):
    """Where an NVIDIA driver answers, TensorFlow comes with CUDA."""
    if Path("/proc/driver/nvidia/version").exists() and not driver:
        pytest.skip("this machine has a driver")
    program(
        project.bin / "nvidia-smi", f"#!/usr/bin/env bash\nexit {int(not driver)}\n"
    )
    project.run("script/bootstrap")
    name = "requirements.txt" if driver else "requirements-cpu.txt"
    assert project.calls("pip install")[0].endswith(f"-r {name}")


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock on this machine")
def test_two_first_starts_take_turns(project):
    """Both apps may be started at once on a fresh clone: one of them sets up."""
    starts = [
        project.start("script/server"),
        project.start("script/server", "classify"),
    ]
    outs = [process.communicate(timeout=SECONDS)[0] for process in starts]
    assert [process.returncode for process in starts] == [0, 0]
    assert all(out.startswith("serving") for out in outs)
    assert len(project.calls("-m venv")) == 1


@pytest.mark.parametrize(
    ("arguments", "app"), [((), "app.py"), (("classify",), "app_classify.py")]
)
def test_the_server_script_starts_an_app(project, tmp_path, arguments, app):
    """script/server runs from any folder, with the project's folders by default."""
    code, out, _ = project.run("script/server", *arguments, cwd=tmp_path)
    root = project.root
    assert code == 0
    assert out == (
        f"serving {root}/{app} from {tmp_path} with {root}/models and {root}/pics\n"
    )


def test_the_server_script_keeps_the_operators_folders(project, tmp_path):
    """Folders in the environment are handed on as they are."""
    folders = {"MODEL_FOLDER": "m", "UPLOAD_FOLDER": "u"}
    _, out, _ = project.run("script/server", cwd=tmp_path, **folders)
    assert out.endswith(" with m and u\n")


def test_the_server_script_refuses_other_words(project):
    """A mistyped app is refused before anything is set up."""
    code, _, err = project.run("script/server", "clasify")
    assert (code, err) == (2, "usage: script/server [classify]\n")
    assert not (project.root / ".venv").exists()


def test_the_test_script_hands_on_arguments_and_code(project):
    """script/test gives pytest its arguments and ends with pytest's code."""
    code, out, _ = project.run("script/test", "-k", "two words", TESTS="5")
    assert (code, out) == (5, "1 passed\n")
    assert project.calls("-m pytest") == ["python -m pytest -k two words"]


@pytest.mark.parametrize("tool", ["ruff check", "ruff format", "mypy"])
def test_the_check_script_fails_with_any_tool(project, tool):
    """script/check runs all three tools and fails when one does."""
    assert project.run("script/check")[0] == 0
    project.calls()
    assert project.run("script/check", FAILS=tool)[0] == 9
    assert len(project.calls("-m")) == 3


def test_ci_runs_the_checks_and_all_tests(project):
    """.ci/run checks, then tests with coverage; pytest's line is its last."""
    code, out, _ = project.run(".ci/run")
    assert (code, out.splitlines()[-1]) == (0, "1 passed")
    assert [call.split()[2] for call in project.calls("-m")][-4:] == [
        "ruff",
        "ruff",
        "mypy",
        "pytest",
    ]


@pytest.mark.parametrize("trouble", [{"FAILS": "mypy"}, {"TESTS": "1"}])
def test_ci_fails_with_either(project, trouble):
    """.ci/run fails when a check or a test does, and always runs both."""
    code, out, _ = project.run(".ci/run", **trouble)
    assert code != 0
    assert out.splitlines()[-1] == "1 passed"


def test_requirements_are_pinned():
    """Every direct dependency has one exact version; extras and markers aside."""
    for file in ROOT.glob("requirements*.txt"):
        for line in file.read_text().splitlines():
            if line and not line.startswith(("#", "-r requirements-")):
                assert re.fullmatch(r"[a-z-]+(\[[a-z-]+\])?==[\w.]+(; .+)?", line), line


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-cpu.txt"])
def test_each_requirements_file_is_whole(name):
    """Either file installs everything by itself: the base and one TensorFlow."""
    lines = (ROOT / name).read_text().splitlines()
    assert "-r requirements-base.txt" in lines
    assert sum(line.startswith("tensorflow") for line in lines) == 2


@pytest.mark.real
def test_a_real_environment(project):
    """With the real Python, .venv is made and its pip runs; here with no packages."""
    program(
        project.bin / "python3.12", f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n'
    )
    for file in project.root.glob("requirements*.txt"):
        file.write_text("# nothing\n")
    models = project.root / "models"
    models.mkdir()
    (models / "mine.pb").touch()
    path = f"{project.bin}{os.pathsep}{os.environ['PATH']}"
    code, _, err = project.run("script/bootstrap", "--dev", PATH=path)
    assert code == 0, err
    assert project.run("script/bootstrap", "--dev", PATH=path) == (0, "", "")
