"""The scripts, on a copy of the project with a Python that only notes what it is asked.

The fake Python makes virtual environments of itself, so that a whole set-up takes
milliseconds and no network.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
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
    "mv",
    "rm",
    "sleep",
    "timeout",
    "touch",
)

# What it is asked stands in $CALLS, one call a line; $FAILS holds words of calls that
# fail, $KILLS of those that end the script as a power cut does.
PYTHON = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$CALLS"
if [[ -n ${FAILS:-} && "$*" == *$FAILS* ]]; then echo "no luck" >&2; exit 9; fi
if [[ -n ${KILLS:-} && "$*" == *$KILLS* ]]; then kill -KILL "$PPID"; exit 9; fi
case "$*" in
  -V | -VV) echo "Python 3.12.1" ;;
  "-m venv --clear "*)
    rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
    echo "#!$4/bin/python" >"$4/bin/tool"; echo "prompt = $6" >"$4/pyvenv.cfg" ;;
  "-m modelserver models install"*) mkdir -p "$MODEL_FOLDER"; touch "$MODEL_FOLDER/d.pb" ;;
  "-m modelserver serve "* | *app*.py) echo "serving $* from $PWD with ${MODEL_FOLDER:-its own} and ${UPLOAD_FOLDER:-its own}" ;;
  "-m pytest"*) echo "1 passed"; exit "${TESTS:-0}" ;;
esac
"""
# nvidia-smi -L by its exit code: 9 without its driver, 6 without a card.
SMI = "#!/usr/bin/env bash\necho '{says}'\nexit {code}\n"
CARD = "GPU 0: NVIDIA L4 (UUID: GPU-1)"
BUILDS = {"GPU": "requirements.txt", "CPU": "requirements-cpu.txt"}
SHIM = "#!/usr/bin/env bash\necho 'pyenv: version not installed' >&2\nexit 127\n"


def program(path, text):
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)


def tensorflow_package():
    """Which of the two packages is installed here."""
    names = {one.name for one in metadata.distributions()}
    return "tensorflow" if "tensorflow" in names else "tensorflow-cpu"


class Project:
    """A copy of the scripts, with a PATH that holds little else than a fake Python."""

    def __init__(self, folder):
        self.root = folder / "pro ject"
        for part in ("script", ".ci"):
            shutil.copytree(ROOT / part, self.root / part)
        for file in [*ROOT.glob("requirements*.txt"), *ROOT.glob("constraints*.txt")]:
            shutil.copy(file, self.root)
        # What the kernel tells of a driver is this test's, not this machine's.
        self.machine = folder / "machine"
        self.machine.mkdir()
        self.edit("script/bootstrap", "/proc/driver/nvidia", self.machine)
        self.edit("script/bootstrap", "/dev/nvidia", self.machine / "nvidia")
        self.edit("script/bootstrap", "/usr/lib/wsl/lib", self.machine / "wsl")
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        program(self.bin / "python3.13", SHIM)
        program(self.bin / "python3.12", PYTHON)
        self.calls_file = folder / "calls"

    def edit(self, file, old, new):
        """Replace words of a file that must be there."""
        path = self.root / file
        text = path.read_text()
        assert str(old) in text
        path.write_text(text.replace(str(old), str(new)))

    def gpu(self, code=0, says=CARD):
        """Give it an nvidia-smi."""
        program(self.bin / "nvidia-smi", SMI.format(says=says, code=code))

    def built(self):
        """Which TensorFlow the environment is for."""
        name = (self.root / ".venv" / ".packages").read_text().split()[0]
        return next(device for device, file in BUILDS.items() if file == name)

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


@pytest.mark.parametrize("name", ["base", "tensorflow-cpu", "cpu", "keras2"])
def test_changed_requirements_are_installed(project, name):
    """Another pin makes the environment anew, so that nothing old stays."""
    project.run("script/bootstrap", "--cpu")
    project.calls()
    with (project.root / f"requirements-{name}.txt").open("a") as file:
        file.write("# changed\n")
    project.run("script/bootstrap")
    assert len(project.calls("-m venv")) == 1


@pytest.mark.parametrize("name", ["dev", "otel", "heif", "grpc"])
def test_changed_test_tools_are_installed(project, name):
    """Another pin of theirs is installed into the environment that is there."""
    project.run("script/bootstrap", "--dev")
    project.calls()
    with (project.root / f"requirements-{name}.txt").open("a") as file:
        file.write("# changed\n")
    project.run("script/bootstrap")
    assert project.calls("pip install") == []
    project.run("script/bootstrap", "--dev")
    (call,) = project.calls("pip install")
    assert f"-r requirements-{name}.txt" in call


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


def test_packages_without_network(project):
    """When pip fails, the run says so and fails; the next one starts over."""
    code, _, err = project.run("script/bootstrap", "--dev", FAILS="pip install")
    assert code == 1
    assert "no luck" in err
    assert "Is there a network?" in err.splitlines()[-1]
    project.calls()
    assert project.run("script/bootstrap", "--dev")[0] == 0
    assert len(project.calls("-m venv")) == 1


@pytest.mark.parametrize("trouble", ["FAILS", "KILLS"])
def test_test_tools_without_network(project, trouble):
    """They fail alone: the server is there, and they are installed the next time."""
    arguments = ("script/bootstrap", "--dev")
    code, _, err = project.run(*arguments, **{trouble: "requirements-dev"})
    assert code == (1 if trouble == "FAILS" else -9), err
    project.calls()
    assert project.run("script/server")[1].startswith("serving")
    assert project.run(*arguments)[0] == 0
    calls = project.calls("-m")
    assert [call for call in calls if "-m venv" in call] == []
    assert len([call for call in calls if "requirements-dev" in call]) == 1


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


@pytest.mark.parametrize(
    ("smi", "version", "node", "build"),
    [
        pytest.param((0, CARD), True, True, "GPU", id="a card"),
        pytest.param((0, CARD), False, False, "GPU", id="WSL, which has no node"),
        pytest.param(None, False, False, "CPU", id="no driver"),
        pytest.param((9, "failed"), False, False, "CPU", id="driver not loaded"),
        pytest.param((0, "No devices found."), True, False, "CPU", id="no card"),
        pytest.param((6, "No devices found."), True, False, "CPU", id="no card, 6"),
        pytest.param(None, True, False, "CPU", id="container without devices"),
        pytest.param(None, True, True, "GPU", id="container without nvidia-smi"),
        pytest.param((18, "mismatch"), True, True, "GPU", id="driver just upgraded"),
    ],
)
def test_a_card_that_can_be_used_decides_about_tensorflow(
    project, smi, version, node, build
):
    """CUDA's 3.4 GB come where nvidia-smi lists a card, or a device of it is there."""
    if smi:
        project.gpu(*smi)
    if version:
        (project.machine / "version").touch()
    if node:
        (project.machine / "nvidia0").touch()
    project.run("script/bootstrap")
    assert project.calls("pip install")[0].endswith(f"-r {BUILDS[build]}")
    assert project.built() == build


@pytest.mark.parametrize("build", ["GPU", "CPU"])
def test_who_says_which_tensorflow_gets_it(project, build):
    """--gpu and --cpu overrule what the machine shows, and hold for later runs."""
    if build == "CPU":
        project.gpu()
    option = f"--{build.lower()}"
    assert project.run("script/bootstrap", option)[0] == 0
    assert project.built() == build
    assert project.run("script/bootstrap") == (0, "", "")
    assert project.run("script/bootstrap", option) == (0, "", "")
    assert len(project.calls("-m venv")) == 1


@pytest.mark.parametrize("code", [9, None], ids=["driver away", "no nvidia-smi"])
def test_an_environment_outlives_a_driver_that_is_away(project, code):
    """It is kept, with a line that says what a new one would be; --cpu makes that."""
    project.gpu()
    project.run("script/bootstrap")
    project.calls()
    project.gpu(code) if code else (project.bin / "nvidia-smi").unlink()
    for _ in range(2):
        code, out, err = project.run("script/bootstrap")
        assert (code, out) == (0, "")
        assert "keeping .venv, with TensorFlow for the GPU" in err
        assert "it would be for the CPU" in err
    assert project.calls("-m") == []
    assert project.run("script/bootstrap", "--cpu")[0] == 0
    assert project.built() == "CPU"
    assert project.run("script/bootstrap") == (0, "", "")


def test_a_card_that_comes_later_is_told(project):
    """The environment for the CPU stays until somebody says --gpu."""
    project.run("script/bootstrap")
    project.calls()
    project.gpu()
    assert "it would be for the GPU" in project.run("script/bootstrap")[2]
    assert project.calls("-m") == []
    assert project.run("script/server", "--gpu")[0] == 0
    assert project.built() == "GPU"


def test_a_decision_that_was_said_needs_no_reminder(project):
    """Who says --gpu for the environment that is there is told nothing any more."""
    project.gpu()
    project.run("script/bootstrap")
    (project.bin / "nvidia-smi").unlink()
    assert project.run("script/bootstrap", "--gpu") == (0, "", "")
    assert project.run("script/bootstrap") == (0, "", "")


def test_changed_requirements_do_not_change_the_device(project):
    """An upgrade while the driver is away is one of the same build."""
    project.gpu()
    project.run("script/bootstrap")
    project.calls()
    project.gpu(9)
    project.edit("constraints-cuda.txt", "nvidia-cudnn", "# \nnvidia-cudnn")
    project.run("script/bootstrap")
    assert project.calls("pip install")[0].endswith("-r requirements.txt")
    assert project.built() == "GPU"


def test_other_cuda_versions_are_nothing_to_the_cpu(project):
    """Their constraints make no environment anew that has none of them."""
    project.run("script/bootstrap")
    project.calls()
    project.edit("constraints-cuda.txt", "nvidia-cudnn", "# \nnvidia-cudnn")
    assert project.run("script/bootstrap") == (0, "", "")


@pytest.mark.parametrize("build", ["GPU", "CPU"])
def test_an_environment_of_before_is_known_by_its_packages(project, build):
    """One that has no note yet, made by an earlier version, is kept as well."""
    project.run("script/bootstrap", f"--{build.lower()}")
    venv = project.root / ".venv"
    (venv / ".packages").unlink()
    if build == "GPU":
        project.gpu(9)
        (venv / "lib/python3.12/site-packages/nvidia/cudnn").mkdir(parents=True)
    else:
        project.gpu()
    project.calls()
    assert f"TensorFlow for the {build}" in project.run("script/bootstrap")[2]
    assert project.calls("-m") == []
    assert project.built() == build


def leftovers(project):
    """What lies beside the environment."""
    return [path.name for path in project.root.glob(".venv.*")]


@pytest.mark.parametrize("step", ["-m venv", "pip install", "--no-deps"])
@pytest.mark.parametrize("trouble", ["FAILS", "KILLS"])
def test_an_upgrade_that_fails_leaves_what_was_there(project, step, trouble):
    """Offline or cut off: the old environment serves, and the next run goes on."""
    project.run("script/bootstrap")
    mine = project.root / ".venv" / "mine"
    mine.touch()
    project.edit("requirements-base.txt", "click", "# changed\nclick")
    code, _, err = project.run("script/bootstrap", **{trouble: step})
    assert code == (4 if trouble == "FAILS" else -9), err
    assert mine.exists()
    code, out, err = project.run("script/server", FAILS=step)
    assert (code, out[:7]) == (0, "serving")
    assert "is kept: TensorFlow for the CPU" in err
    assert leftovers(project) == []
    assert project.run("script/bootstrap")[0] == 0
    assert not mine.exists()
    assert leftovers(project) == []


def test_a_said_build_that_fails_starts_no_server_of_the_other(project):
    """--gpu without a network: an error, and the one for the CPU is there as before."""
    project.run("script/bootstrap")
    code, out, err = project.run("script/server", "--gpu", FAILS="pip install")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("bootstrap: the .venv that was there is kep")
    assert project.built() == "CPU"
    assert project.run("script/server")[1].startswith("serving")


@pytest.mark.parametrize("done", [0, 1], ids=["before the swap", "between its moves"])
def test_a_swap_that_was_cut_off_is_mended(project, done):
    """Killed at the worst time, the next run finds an environment and tidies up."""
    project.run("script/bootstrap")
    venv = project.root / ".venv"
    shutil.copytree(venv, project.root / ".venv.new")
    if done:
        venv.rename(project.root / ".venv.old")
    project.calls()
    assert project.run("script/bootstrap") == (0, "", "")
    assert project.calls("-m") == []
    assert leftovers(project) == []


def test_scripts_of_an_environment_name_its_last_folder(project):
    """Made beside and moved, nothing in it points to where it was made."""
    project.run("script/bootstrap")
    venv = project.root / ".venv"
    assert (venv / "bin" / "tool").read_text() == f"#!{venv}/bin/python\n"
    assert (venv / "pyvenv.cfg").read_text() == "prompt = .venv\n"


def test_a_driver_that_hangs_keeps_nobody_from_starting(project):
    """nvidia-smi is given up after a while: a wedged card must not stop the server."""
    program(project.bin / "nvidia-smi", "#!/usr/bin/env bash\nexec sleep 600\n")
    project.edit("script/bootstrap", "timeout 30", "timeout 0.2")
    assert project.run("script/bootstrap")[0] == 0
    assert project.built() == "CPU"


def test_bootstrap_refuses_other_words(project):
    """A mistyped option is refused before anything is set up."""
    code, _, err = project.run("script/bootstrap", "--gpus")
    assert (code, err) == (2, "usage: script/bootstrap [--dev] [--gpu | --cpu]\n")


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


def test_the_server_script_sets_no_folder_in_its_own(project):
    """There they are the defaults, and MODELS_FOLDER is still seen to be a slip."""
    _, out, _ = project.run("script/server")
    assert out.endswith(f" from {project.root} with its own and its own\n")


def test_the_server_script_starts_both_tasks(project, tmp_path):
    """By the package's own command, which is found from any folder."""
    code, out, _ = project.run("script/server", "all", cwd=tmp_path)
    root = project.root
    assert code == 0
    assert out == (
        f"serving -m modelserver serve all from {tmp_path} with {root}/models and "
        f"{root}/pics\n"
    )


def test_the_server_script_keeps_the_operators_folders(project, tmp_path):
    """Folders in the environment are handed on as they are."""
    folders = {"MODEL_FOLDER": "m", "UPLOAD_FOLDER": "u"}
    _, out, _ = project.run("script/server", cwd=tmp_path, **folders)
    assert out.endswith(" with m and u\n")


def test_the_server_script_refuses_other_words(project):
    """A mistyped app is refused before anything is set up."""
    code, _, err = project.run("script/server", "clasify")
    assert (code, err) == (2, "usage: script/server [classify | all] [--gpu | --cpu]\n")
    assert not (project.root / ".venv").exists()


def test_the_test_script_hands_on_arguments_and_code(project):
    """script/test gives pytest its arguments and ends with pytest's code."""
    code, out, _ = project.run("script/test", "-k", "two words", TESTS="5")
    assert (code, out) == (5, "1 passed\n")
    assert project.calls("-m pytest") == ["python -m pytest -k two words"]


def test_the_quick_tests_run_two_at_a_time(project):
    """--quick is pytest's own option here; the script adds the two processes."""
    assert project.run("script/test", "--quick", "tests/web")[0] == 0
    assert project.calls("-m pytest") == [
        "python -m pytest -n 2 --dist loadfile --quick tests/web"
    ]


def test_the_test_script_takes_the_build(project):
    """--cpu before pytest's arguments is for the environment."""
    project.gpu()
    assert project.run("script/test", "--cpu", "-x")[0] == 0
    assert project.built() == "CPU"
    assert project.calls("-m pytest") == ["python -m pytest -x"]


@pytest.mark.parametrize(
    ("arguments", "build"), [((), "GPU"), (("--cpu", "--quick"), "CPU")]
)
def test_the_proof_script_sets_up_for_the_card(project, arguments, build):
    """Without --cpu its TensorFlow is the one with CUDA; all is handed on."""
    assert project.run("script/gpu-proof", *arguments)[0] == 0
    assert project.built() == build
    (call,) = project.calls("gpu_proof")
    assert call == " ".join(["python -m benchmarks.gpu_proof", *arguments])


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


CLIENT = ROOT / "requirements-client.txt"


def test_requirements_are_pinned():
    """Every direct dependency has one exact version; extras and markers aside."""
    for file in {*ROOT.glob("requirements*.txt")} - {CLIENT}:
        for line in file.read_text().splitlines():
            if line and not line.startswith(
                ("#", "-r requirements-", "-c constraints-")
            ):
                assert re.fullmatch(r"[a-z-]+(\[[a-z-]+\])?==[\w.]+(; .+)?", line), line


def test_the_servers_versions_suit_the_client():
    """What client and command need the server has too, in a version that they allow."""
    lines = (ROOT / "requirements-base.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    for line in CLIENT.read_text().splitlines():
        if not line.startswith("#"):
            asked = Requirement(line)
            (pin,) = [one for one in pins if one.name == asked.name]
            (version,) = [one.version for one in pin.specifier]
            assert asked.specifier.contains(version), line


@pytest.mark.parametrize(
    ("name", "build"), [("requirements.txt", "gpu"), ("requirements-cpu.txt", "cpu")]
)
def test_each_requirements_file_is_whole(name, build):
    """Either file installs everything by itself: the base and one TensorFlow."""
    lines = (ROOT / name).read_text().splitlines()
    assert "-r requirements-base.txt" in lines
    assert f"-r requirements-tensorflow-{build}.txt" in lines
    lines = (ROOT / f"requirements-tensorflow-{build}.txt").read_text().splitlines()
    assert sum(line.startswith("tensorflow") for line in lines) == 2


def test_every_cuda_library_is_pinned():
    """All that TensorFlow's CUDA build asks for, within what it allows, and no other."""
    assert "-c constraints-cuda.txt" in (ROOT / "requirements.txt").read_text()
    lines = (ROOT / "constraints-cuda.txt").read_text().splitlines()
    pins = dict(
        line.partition(";")[0].split("==") for line in lines if not line.startswith("#")
    )
    asked = {}
    for word in metadata.requires(tensorflow_package()):
        if (one := Requirement(word)).name.startswith("nvidia-"):
            asked[one.name] = one.specifier
    assert sorted(pins) == list(pins) == sorted(asked)
    for name, version in pins.items():
        assert asked[name].contains(version), name


def test_the_cuda_libraries_here_are_the_pinned_ones():
    """With the CUDA build all that is pinned is installed, and none came unpinned."""
    here = {
        f"{one.name}=={one.version}"
        for one in metadata.distributions()
        if one.name.startswith("nvidia-") and one.name != "nvidia-ml-py"
    }
    lines = (ROOT / "constraints-cuda.txt").read_text().splitlines()
    cuda = tensorflow_package() == "tensorflow" and sys.platform == "linux"
    pinned = {line.partition(";")[0] for line in lines[1:]}
    assert here == (pinned if cuda else set())


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
    venv = project.root / ".venv"
    pip = subprocess.run(
        [venv / "bin" / "pip", "--version"], capture_output=True, text=True, check=True
    )
    assert f"{venv}/lib" in pip.stdout
    bash = '. .venv/bin/activate && echo "$VIRTUAL_ENV" "$(type -p python)"'
    shell = subprocess.run(
        ["bash", "-c", bash],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout == f"{venv} {venv}/bin/python\n"
    assert leftovers(project) == []
