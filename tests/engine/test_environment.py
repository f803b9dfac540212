"""The environment that a model's process gets."""

import os
import sys

import pytest

from modelserver.core import cuda
from modelserver.engine.runners import environment
from modelserver.runner import inline

MIXED = cuda.Library(
    name="libcublas.so.12",
    needed=True,
    package="nvidia-cublas-cu12",
    path="/wheel",
    how="opened",
    detail="LD_LIBRARY_PATH has another one: /sys",
)


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Put a system's CUDA and another folder into the search path."""
    (tmp_path / "libcudart.so.11.0").touch()
    search = f"{tmp_path}{os.pathsep}/mine"
    monkeypatch.setenv("LD_LIBRARY_PATH", search)
    for name in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    return search


def test_a_process_with_a_card_sees_that_one_and_says_why_not(toolkit, monkeypatch):
    """TensorFlow says in its warnings why it uses no card."""
    monkeypatch.setattr(cuda, "has_wheels", lambda: True)
    environ = environment.make_environ("GPU-abc")
    assert environ["CUDA_VISIBLE_DEVICES"] == "GPU-abc"
    assert environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert environ["TF_CPP_MIN_LOG_LEVEL"] == "1"
    assert environ["LD_LIBRARY_PATH"] == "/mine"


def test_keras_leaves_no_settings_behind(monkeypatch):
    """Unless somebody has said where."""
    monkeypatch.delenv("KERAS_HOME", raising=False)
    assert not os.path.lexists(environment.make_environ(None)["KERAS_HOME"])
    monkeypatch.setenv("KERAS_HOME", "/own")
    assert environment.make_environ(None)["KERAS_HOME"] == "/own"


def test_nvidias_own_variables_reach_a_process_with_a_card(monkeypatch):
    """Rounding and the kernels' cache follow them; the cache's size by default."""
    own = {"NVIDIA_TF32_OVERRIDE": "0", "CUDA_CACHE_PATH": "/kept"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_CACHE_MAXSIZE", raising=False)
    environ = environment.make_environ("0")
    assert own.items() <= environ.items()
    assert environ["CUDA_CACHE_MAXSIZE"] == str(4 << 30)
    monkeypatch.setenv("CUDA_CACHE_MAXSIZE", "5")
    assert environment.make_environ("0")["CUDA_CACHE_MAXSIZE"] == "5"


def test_without_wheels_a_systems_cuda_stays(toolkit, monkeypatch):
    """It is the only CUDA there is."""
    monkeypatch.setattr(cuda, "has_wheels", lambda: False)
    assert environment.make_environ("0")["LD_LIBRARY_PATH"] == toolkit


def test_a_process_without_a_card_keeps_the_cards_variables(toolkit, monkeypatch):
    """The token is not handed on."""
    monkeypatch.setenv("API_TOKEN", "secret")
    environ = environment.make_environ(None)
    assert environ["LD_LIBRARY_PATH"] == toolkit
    assert environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    assert not {"CUDA_VISIBLE_DEVICES", "API_TOKEN"} & environ.keys()


def test_the_operators_log_level_is_obeyed(monkeypatch):
    """It is obeyed with a card, too."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert environment.make_environ("0")["TF_CPP_MIN_LOG_LEVEL"] == "0"


@pytest.mark.parametrize(("gpu", "times"), [("0", 1), (None, 0)])
def test_libraries_that_tensorflow_would_miss_are_opened_before_it(
    gpu, times, monkeypatch, caplog
):
    """Only a process that was given a card needs them."""
    calls = []

    def preload():
        calls.append("tensorflow" in sys.modules)
        return cuda.Report(build=cuda.Build(), libraries=(MIXED,))

    monkeypatch.setattr(cuda, "preload", preload)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setitem(sys.modules, "modelserver.runner.sessions", cuda)
    inline.import_tensorflow(gpu)
    assert calls == [False] * times
    sentence = (
        "libcublas.so.12 is taken from /wheel: LD_LIBRARY_PATH has another one: /sys"
    )
    assert [record.getMessage() for record in caplog.records] == [sentence] * times
