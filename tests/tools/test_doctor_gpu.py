"""``modelserver doctor gpu``: nothing wrong, and each thing that may be."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelserver.client.results import ModelInfo
from modelserver.core import cuda
from modelserver.core.cuda import Build, Library, Report
from modelserver.engine.runners.cards import Card, Memory, Survey
from modelserver.engine.runners.probe import ProbeResult
from modelserver.tools.cli import doctor as command
from modelserver.tools.cli import main, predict
from modelserver.tools.doctor import gpu
from support import tiny_graphs
from support.app_client import photo
from support.bench_servers import stand_in

GIB = 1 << 30
L4 = Card("GPU-1", "GPU 0", "NVIDIA L4", 0, "GPU-1")
CUDA = Build(
    folder="tensorflow", cuda="12.5.1", told=True, capabilities=("sm_80", "compute_90")
)
CPU = Build(folder="tensorflow", told=True)
DRIVER = Library(name="libcuda.so.1", needed=True, package="the NVIDIA driver")
SOLVER = Library(
    name="libcusolver.so.11",
    needed=True,
    package="nvidia-cusolver-cu12",
    path="nvidia/cusolver/lib/libcusolver.so.11",
    how="opened",
)
FOUND = Library(name="libcudnn.so.9", needed=True, package="nvidia-cudnn-cu12")
NCCL = Library(name="libnccl.so.2", needed=False, package="nvidia-nccl-cu12")
USED = ProbeResult(("GPU 0: NVIDIA L4",))


class Machine:
    """A machine as its libraries show it; sound unless told otherwise."""

    def __init__(self):
        self.survey = Survey((L4,))
        self.told = {L4.gpu: USED}
        self.memory = {L4.gpu: Memory(21 * GIB, 24 * GIB)}
        self.hindrance = ""
        self.build = CUDA
        self.libraries = [
            self.with_(DRIVER, how="system"),
            SOLVER,
            self.with_(FOUND, how="runpath", path="nvidia/cudnn/lib/libcudnn.so.9"),
        ]
        self.nodes = {"/dev/nvidia0": True, "/dev/nvidiactl": True}
        self.environ = {}

    @staticmethod
    def with_(library, **facts):
        """The same library, found otherwise."""
        named = {name: getattr(library, name) for name in library.__struct_fields__}
        return Library(**named | facts)

    def patch(self, monkeypatch):
        """Show it to the doctor."""
        monkeypatch.setattr(gpu.cards, "survey", lambda _environ: self.survey)
        monkeypatch.setattr(gpu.cards, "memory", lambda _cards: self.memory)
        monkeypatch.setattr(gpu.cards, "driver", lambda: "550.54.14")
        monkeypatch.setattr(gpu.probe, "ask_one", lambda card: self.told[card.gpu])
        report = Report(build=self.build, libraries=tuple(self.libraries))
        shown = {
            "check": lambda: report,
            "hindrance": lambda: self.hindrance,
            "device_nodes": lambda: [Path(path) for path in self.nodes],
            "opens": lambda path: self.nodes[str(path)],
        }
        for name, answer in shown.items():
            monkeypatch.setattr(cuda, name, answer)


@pytest.fixture
def machine(monkeypatch):
    """A sound machine, to be changed; ``ask`` gives the report on it."""
    made = Machine()

    def ask():
        made.patch(monkeypatch)
        return gpu.gpu_report(made.environ)

    made.ask = ask
    return made


def text(report):
    """The report as it is printed."""
    return "\n".join(gpu.gpu_lines(report))


def test_where_nothing_is_wrong_that_is_said(machine):
    """The report has the card, its memory, and the libraries with their finders, and no problem."""
    report = machine.ask()
    assert report.ok
    assert report.problems == ()
    shown = text(report)
    assert shown.endswith("TensorFlow uses a card.")
    assert "GPU 0: NVIDIA L4, 21.0 of 24.0 GiB free [GPU-1]" in shown
    assert "TensorFlow: GPU 0: NVIDIA L4" in shown
    assert "550.54.14" in shown
    assert "built with CUDA 12.5.1; kernels for sm_80, compute_90" in shown
    assert "TensorFlow alone would not find it, the server opens it" in shown
    assert "what is wrong" not in shown


def nothing(machine):
    machine.survey = Survey()
    machine.nodes = {}
    machine.libraries = [DRIVER]


def cpu_wheel(machine):
    machine.build, machine.libraries = CPU, []
    machine.told = {
        L4.gpu: ProbeResult(reason="TensorFlow finds none: built for the CPU.")
    }


def no_tensorflow(machine):
    machine.build, machine.libraries = Build(), []
    machine.told = {L4.gpu: ProbeResult(reason="No module named tensorflow")}


def library_missing(machine):
    machine.libraries[2] = FOUND
    machine.told = {L4.gpu: ProbeResult(reason="TensorFlow finds none: libcudnn.so.9.")}


def library_broken(machine):
    machine.libraries[2] = machine.with_(
        FOUND, how="broken", path="x", detail="file too short"
    )
    machine.told = {L4.gpu: ProbeResult(reason="TensorFlow finds none.")}


def no_permission(machine):
    machine.survey = Survey((), ("GPU 0 is passed over: Insufficient Permissions.",))
    machine.nodes = {"/dev/nvidia0": False, "/dev/nvidiactl": True}
    machine.hindrance = "/dev/nvidia0 cannot be opened by this user; the group video."


def nvml_fails(machine):
    words = "NVML, the NVIDIA driver's library, says: Driver/library version mismatch."
    machine.survey = Survey((), (words,))


def mig_without_instance(machine):
    words = "GPU 0 is passed over: MIG is on and it has no instance; nvidia-smi mig."
    machine.survey = Survey((), (words,))


def unwanted(machine):
    machine.environ = {"CUDA_VISIBLE_DEVICES": "-1"}
    machine.survey = Survey(unwanted=True)


def refused(machine):
    machine.told = {
        L4.gpu: ProbeResult(reason="compute capability 5.2 is below; none runs.")
    }


@pytest.mark.parametrize(
    ("harm", "first", "remedy"),
    [
        (nothing, "Nothing of NVIDIA's is seen here", "docker run --gpus all"),
        (cpu_wheel, "built for the CPU only", "script/bootstrap --gpu"),
        (no_tensorflow, "TensorFlow is not installed", "script/bootstrap --gpu"),
        (library_missing, "libcudnn.so.9 is missing", "install nvidia-cudnn-cu12"),
        (library_broken, "file too short", "script/bootstrap --gpu"),
        (no_permission, "GPU 0 is passed over", "the group video"),
        (nvml_fails, "Driver/library version mismatch", "restart the machine"),
        (mig_without_instance, "MIG is on", "nvidia-smi mig"),
        (unwanted, "CUDA_VISIBLE_DEVICES='-1' says", "unset it"),
        (refused, "GPU 0: NVIDIA L4: compute capability 5.2", "none runs"),
    ],
)
def test_what_is_missing_is_said_with_its_remedy(machine, harm, first, remedy):
    """The most fundamental problem comes first, and the exit code is a failure's."""
    harm(machine)
    report = machine.ask()
    assert not report.ok
    assert first in report.problems[0]
    assert any(remedy in sentence for sentence in report.problems)
    shown = text(report)
    assert f"  1. {report.problems[0]}" in shown
    assert shown.endswith("TensorFlow uses no card.")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("CUDA_ERROR_UNKNOWN: unknown error", "modprobe nvidia-uvm"),
        ("Driver Not Loaded", "modprobe nvidia"),
        ("Insufficient Permissions", "nodes' group"),
        ("CUDA driver version is insufficient for CUDA runtime", "upgrade it"),
        ("CUDA_ERROR_OUT_OF_MEMORY: out of memory", "nvidia-smi lists them"),
        ("something nobody has seen", ""),
    ],
)
def test_the_drivers_words_get_their_advice(machine, words, remedy):
    """The driver names the failure, and the report adds a remedy for the frequent ones."""
    machine.told = {L4.gpu: ProbeResult(reason=f"TensorFlow finds none: {words}.")}
    (problem,) = machine.ask().problems
    assert words in problem
    assert remedy in problem
    assert bool(remedy) != problem.endswith(f"{words}.")


def test_the_driver_is_nothing_that_an_environment_brings(machine):
    """A driver's library that is missing is not answered with pip."""
    machine.libraries[0] = DRIVER
    report = machine.ask()
    assert "libcuda.so.1" in report.problems[0]
    assert "bootstrap" not in report.problems[0]


def test_a_library_that_is_not_needed_is_no_problem(machine):
    """NCCL is for several cards at once."""
    machine.libraries.append(NCCL)
    report = machine.ask()
    assert report.ok
    assert report.problems == ()
    assert "missing, and not needed" in text(report)


def test_each_card_is_asked_for_itself(machine):
    """One card that works is enough, and the other's reason is reported."""
    instance = Card("MIG-2", "GPU 1 MIG 0", "A100 MIG 1g.5gb", 1, "GPU-2", mig=True)
    machine.survey = Survey((L4, instance))
    machine.memory[instance.gpu] = None
    machine.told[instance.gpu] = ProbeResult(reason="it is full.")
    report = machine.ask()
    assert report.ok
    assert report.problems == ("GPU 1 MIG 0: A100 MIG 1g.5gb: it is full.",)
    assert "its memory is not told [MIG-2]; TensorFlow does NOT use it" in text(report)


def test_variables_that_decide_about_cards_are_told(machine):
    """The report has only these variables, because it may be sent to somebody."""
    machine.environ = {"LD_LIBRARY_PATH": "/opt/cuda", "API_TOKEN": "secret"}
    report = machine.ask()
    assert report.environment == {"LD_LIBRARY_PATH": "/opt/cuda"}
    assert "secret" not in text(report)


def test_the_command_prints_and_exits(machine, monkeypatch):
    """The output is lines or JSON, and the exit code is 1 if no card is used."""
    machine.patch(monkeypatch)
    plain = CliRunner().invoke(main, ["doctor", "gpu"])
    assert (plain.exit_code, plain.stdout.splitlines()[-1]) == (
        0,
        "TensorFlow uses a card.",
    )
    told = json.loads(CliRunner().invoke(main, ["doctor", "gpu", "--json"]).stdout)
    assert told["cards"][0]["tensorflow"] == "GPU 0: NVIDIA L4"
    assert told["libraries"][1]["how"] == "opened"
    nvml_fails(machine)
    machine.patch(monkeypatch)
    failed = CliRunner().invoke(main, ["doctor", "gpu", "--json"])
    assert failed.exit_code == 1
    assert "mismatch" in json.loads(failed.stdout)["problems"][0]


def check(*words):
    """Call ``check``."""
    return CliRunner().invoke(main, ["check", *map(str, words)])


@pytest.mark.parametrize(
    ("survey", "said"),
    [
        (Survey(), "No GPU is seen here"),
        (Survey((), ("GPU 0 is passed over: it is lost.",)), "it is lost."),
    ],
)
def test_checking_on_a_card_takes_one(folder, monkeypatch, survey, said):
    """Without a card ``check --gpu`` runs nothing on the CPU instead."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    monkeypatch.setattr(command.cards, "survey", lambda: survey)
    result = check(folder, "--gpu")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert said in result.stderr
    assert "python -m modelserver doctor gpu tells more." in result.stderr


@pytest.mark.real
def test_a_model_that_would_fall_back_does_not_pass(folder, monkeypatch):
    """If NVML lists a card that TensorFlow does not use, that is an error with its reason."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    monkeypatch.setattr(command.cards, "survey", lambda: Survey((L4,)))
    result = check(folder, "--gpu", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    (found,) = [one for one in report["findings"] if one["level"] == "error"]
    assert found["code"] == "gpu-failed"
    assert "doctor gpu" in found["fix"]
    assert [one["serves"] for one in report["models"]] == [False]


def test_checking_is_on_the_cpu_unless_asked(folder, monkeypatch):
    """A card that may be busy is not touched, and not even asked for."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    monkeypatch.setattr(command.cards, "survey", None)
    monkeypatch.setenv("ISOLATION", "inline")
    result = check(folder, "--json")
    assert [one["device"] for one in json.loads(result.stdout)["models"]] == ["CPU"]


@pytest.mark.parametrize(
    ("device", "code", "said"),
    [
        ("GPU 0: NVIDIA L4", 0, ""),
        ("CPU", 1, "The server runs net on CPU, and --gpu was asked for."),
        (None, 1, "The server runs net nowhere"),
    ],
)
def test_predicting_on_a_card_asks_the_server(
    tmp_path, monkeypatch, device, code, said
):
    """``predict --gpu`` sends no photo to a model that is on the CPU."""
    (tmp_path / "a.jpg").write_bytes(photo())
    told = ModelInfo("net", "detection", "READY", None, None, {"device": device})
    monkeypatch.setattr(predict.Client, "models", lambda _self: [told])
    with stand_in() as server:
        server.answer = lambda _number: (200, b"[]")
        words = ["predict", str(tmp_path), "--model", "net", "--url", server.url]
        result = CliRunner().invoke(main, [*words, "--gpu"])
        assert result.exit_code == code, result.output
        assert said in result.stderr
        assert len(server.posts) == (0 if code else 1)


def test_this_machine_can_be_asked_whatever_it_has():
    """The report on this very machine, without doubles, says that there is no card, and why."""
    result = CliRunner().invoke(main, ["doctor", "gpu"])
    assert result.exit_code == 1, result.output
    assert "what is wrong\n  1. " in result.stdout
    assert "CUDA_VISIBLE_DEVICES='-1'" in result.stdout
