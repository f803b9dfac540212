"""A model runs on its card or the CPU, and a card's errors are told apart."""

import numpy as np
import pytest
import tensorflow as tf

from modelserver.core import cuda, errors, findings
from modelserver.core.messages import AssignedCard, Job
from modelserver.runner.inline import InlineRunner
from modelserver.runner.sessions import devices
from modelserver.runner.sessions.devices import Faults, as_load_errors
from support import tiny_graphs
from support.app_client import SECONDS
from support.graph_runs import session_of

BUILD = cuda.Build(
    folder="x", told=True, cuda="12.5.1", capabilities=("sm_60", "sm_80", "compute_90")
)


@pytest.fixture
def cards(monkeypatch):
    """A function that has TensorFlow list cards of a compute capability."""

    def see(capability=(8, 6), count=1):
        details = {"device_name": "NVIDIA Fake", "compute_capability": capability}
        listed = [f"GPU:{number}" for number in range(count)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda _kind: listed)
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda _one: details
        )
        monkeypatch.setattr(cuda, "read_build", lambda: BUILD)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return see


class TestChoosing:
    """The chosen device is reported, with the reason for it."""

    def test_the_card_that_was_given_is_named_as_nvidia_smi_does(self, cards):
        """The assigned card is named as nvidia-smi counts, not by its UUID."""
        cards()
        device = devices.choose(AssignedCard("GPU-abc", "GPU 1"))
        assert device.name == "GPU 1: NVIDIA Fake"
        assert device.on_gpu
        assert device.findings("m") == ()
        assert device.config().gpu_options.allow_growth

    def test_without_a_card_and_without_signs_there_is_no_finding(self):
        """A plain machine without a card gets no finding."""
        device = devices.choose(AssignedCard())
        assert device == devices.Device()
        assert device.findings("m") == ()
        assert device.config().intra_op_parallelism_threads == 1

    @pytest.mark.parametrize(
        ("sentence", "hindrance", "words"),
        [
            ("libcufft.so.11 is missing.", "", "libcufft.so.11 is missing"),
            ("", "/dev/nvidia0 cannot be opened.", "/dev/nvidia0 cannot"),
            ("", "", "in the log"),
        ],
    )
    def test_a_card_that_tensorflow_does_not_find_is_reported_with_the_reason(
        self, sentence, hindrance, words, monkeypatch
    ):
        """The reason is the libraries', the device nodes', or TensorFlow's own."""

        class Report:
            """A report of missing libraries."""

        Report.sentence = sentence
        monkeypatch.setattr(cuda, "check", Report)
        monkeypatch.setattr(cuda, "hindrance", lambda: hindrance)
        device = devices.choose(AssignedCard("GPU-abc", "GPU 0"))
        assert device.name == "CPU"
        assert not device.on_gpu
        assert device.reason.startswith("GPU 0 was assigned, but TensorFlow finds none")
        assert words in device.reason
        (one,) = device.findings("m")
        assert (one.code, one.level) == ("gpu-unused", "warning")
        assert "doctor gpu" in one.fix
        with pytest.raises(errors.DeviceFailed, match="REQUIRE_GPU") as failed:
            devices.choose(AssignedCard("GPU-abc", "GPU 0", required=True))
        assert words in str(failed.value)

    def test_the_wheel_that_is_installed_here_is_the_reason(self):
        """The reason is a wheel for the CPU, or a driver that is missing."""
        reason = devices.choose(AssignedCard("0", "GPU 0")).reason
        assert "built for the CPU only" in reason or "libcuda.so.1" in reason

    def test_signs_of_a_card_that_cannot_be_given_are_reported(self):
        """Signs that the front found are passed on as the reason."""
        device = devices.choose(AssignedCard(missing="The driver is too old."))
        assert device.reason == "The driver is too old."
        assert device.findings("m")[0].code == "gpu-unused"

    def test_a_card_without_kernels_is_not_used(self, cards):
        """TensorFlow lists such a card, and every run on it would fail."""
        cards(capability=(5, 2))
        device = devices.choose(AssignedCard("GPU-abc", "GPU 0"))
        assert not device.on_gpu
        assert "5.2 is below" in device.reason
        assert device.config().device_count["GPU"] == 0

    def test_a_card_newer_than_the_wheel_is_used_and_reported(self, cards):
        """Such a card's first use takes long, which a finding says."""
        cards(capability=(12, 0))
        device = devices.choose(AssignedCard("GPU-abc", "GPU 0"))
        assert device.on_gpu
        (one,) = device.findings("m")
        assert (one.code, one.level) == ("gpu-compiles", "note")
        assert "12.0" in one.message

    def test_a_card_without_details_is_used(self, cards, monkeypatch):
        """No card is refused by a guess."""

        def fail(_one):
            raise ValueError("no details")

        cards()
        monkeypatch.setattr(tf.config.experimental, "get_device_details", fail)
        assert devices.choose(AssignedCard()).name == "GPU 0: unknown"

    @pytest.mark.parametrize(
        ("gpu", "number"), [("GPU-b", 1), ("GPU-a", 0), ("GPU-x", 0), (None, 0)]
    )
    def test_in_one_process_each_model_has_its_own_card(
        self, gpu, number, cards, monkeypatch
    ):
        """TensorFlow counts the cards that the process sees, in their order."""
        cards(count=2)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
        device = devices.choose(AssignedCard(gpu))
        assert device.number == number
        with tf.Graph().as_default() as graph:
            tf.constant(1.0, name="one")
        device.pin(graph)
        where = graph.get_operation_by_name("one").device
        assert where == (f"/device:GPU:{number}" if number else "")

    def test_a_share_of_the_card_is_a_limit_for_each_that_is_seen(self, cards):
        """Each card that is listed gets its own memory limit."""
        cards(count=2)
        config = devices.choose(AssignedCard("0", memory_mb=700)).config()
        shares = config.gpu_options.experimental.virtual_devices
        assert [list(one.memory_limit_mb) for one in shares] == [[700], [700]]

    def test_the_codes_are_known(self):
        """The findings have levels in the one table."""
        assert {"gpu-unused", "gpu-compiles"} <= findings.CODES.keys()


MEMORY = [
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
    tf.errors.InternalError(None, None, "Dst tensor is not initialized."),
    tf.errors.NotFoundError(None, None, "No algorithm worked! CUDNN_STATUS_ALLOC_FAILED"),
    tf.errors.InternalError(None, None, "Blas GEMM failed: CUBLAS_STATUS_ALLOC_FAILED"),
    tf.errors.FailedPreconditionError(None, None, "DNN library initialization failed."),
    tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    tf.errors.InternalError(None, None, "Failed to allocate 12 bytes"),
    tf.errors.InternalError(None, None, "cudaErrorMemoryAllocation"),
    tf.errors.UnknownError(None, None, "Failed to create cublas handle: NOT_INITIALIZED"),
    tf.errors.InternalError(
        None, None, "Could not create cudnn handle: CUDNN_STATUS_INTERNAL_ERROR"
    ),
]  # fmt: skip
LOST = [
    "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered",
    "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "GPU sync failed",
    "Could not synchronize CUDA stream",
    "cudaGetDevice() failed. Status: device lost",
    "no kernel image is available for execution on the device",
]
OWN = [
    tf.errors.InvalidArgumentError(None, None, "Incompatible shapes: [1,2] vs. [3]"),
    tf.errors.UnimplementedError(None, None, "CUDNN_STATUS_NOT_SUPPORTED"),
    tf.errors.InternalError(None, None, "cudnn: CUDNN_STATUS_BAD_PARAM"),
    tf.errors.NotFoundError(None, None, "No algorithm worked!"),
    ValueError("Cannot feed value of shape (1,)"),
]


class TestFaults:
    """Errors of memory, of a lost card and of the graph are told apart."""

    @pytest.mark.parametrize("error", MEMORY, ids=lambda error: error.message[:40])
    def test_memory_that_did_not_do(self, error):
        """Too little memory is recognised, so batches split and the ceiling falls."""
        assert isinstance(Faults().to_request_error(error), errors.OutOfMemory)

    @pytest.mark.parametrize("words", LOST)
    def test_a_context_that_is_lost(self, words):
        """A lost context is recognised, as nothing that runs in it ever succeeds."""
        error = tf.errors.InternalError(None, None, words)
        assert isinstance(Faults().to_request_error(error), errors.RunnerDied)

    @pytest.mark.parametrize("error", OWN, ids=str)
    def test_errors_of_the_graph(self, error):
        """A graph's own fault leaves the process alone, as the card works as before."""
        assert isinstance(Faults().to_request_error(error), errors.RunFailed)

    def test_three_odd_errors_in_a_row_are_a_lost_context(self):
        """A run that succeeds in between is a sign of life and resets the count."""
        odd = tf.errors.InternalError(None, None, "something new")
        faults = Faults()
        told = [faults.to_request_error(odd), faults.to_request_error(odd)]
        faults.reset()
        told += [faults.to_request_error(odd) for _ in range(3)]
        kinds = [type(one) for one in told]
        assert kinds == [errors.RunFailed] * 4 + [errors.RunnerDied]

    def test_a_graphs_own_errors_never_add_up(self):
        """Nobody ends the process with bad photos."""
        faults = Faults()
        told = [faults.to_request_error(OWN[0]) for _ in range(9)]
        assert {type(one) for one in told} == {errors.RunFailed}


class TestLoading:
    """A card's fault during a load is the card's, and the load is tried again."""

    CARD = devices.Device("GPU 0: NVIDIA Fake", 0)

    @pytest.mark.parametrize(
        "error", [*MEMORY, tf.errors.InternalError(None, None, "?")]
    )
    def test_a_session_that_the_card_refuses(self, error):
        """A refusal has TensorFlow's words and no advice about main memory."""
        with pytest.raises(errors.DeviceFailed, match="GPU 0") as failed:
            self.fail(error)
        assert "MODEL_MEMORY_MB" not in str(failed.value)
        assert ("GPU_MEMORY_MB" in str(failed.value)) is (error in MEMORY)

    def fail(self, error, device=CARD):
        """Raise an error during a load."""
        with as_load_errors(device):
            raise error

    @pytest.mark.parametrize("cause", [errors.OutOfMemory(), errors.RunnerDied()])
    def test_a_warm_up_that_the_card_refuses(self, cause):
        """A warm-up that the card refuses is the card's fault, too."""
        error = errors.GraphError("The graph cannot be run")
        error.__cause__ = cause
        cause.__cause__ = MEMORY[1]
        with pytest.raises(errors.DeviceFailed, match="Dst tensor"):
            self.fail(error)

    @pytest.mark.parametrize("error", [OWN[0], errors.GraphError("no inputs")])
    def test_the_files_are_at_fault_for_the_rest(self, error):
        """Other load errors are the files', in a sentence."""
        with pytest.raises(errors.GraphError):
            self.fail(error)

    def test_a_cpu_is_as_ever(self):
        """Errors of a load on a CPU pass through unchanged."""
        with pytest.raises(tf.errors.InternalError):
            self.fail(MEMORY[1], devices.Device())


def test_a_session_on_a_card_distinguishes_its_errors(cards, tmp_path, monkeypatch):
    """A session on a card turns TensorFlow's errors into those that a request gets."""
    cards()
    path = tiny_graphs.write(tmp_path / "m.frozen.pb", tiny_graphs.echo_detector())
    session = session_of(path, card=AssignedCard("0", "GPU 0"))
    on_gpu = []
    session.open(on_gpu.append)
    assert (on_gpu, session.device) == ([True], "GPU 0: NVIDIA Fake")
    image = np.zeros((8, 8, 3), np.uint8)
    for words, kind in ((LOST[0], errors.RunnerDied), ("?", errors.RunFailed)):

        def fail(*_args, words=words, **_options):
            raise tf.errors.InternalError(None, None, words)

        monkeypatch.setattr(session._run, "_call", fail)
        with pytest.raises(kind):
            session.run([image])
    session.close()


def test_without_a_process_of_its_own_a_lost_card_ends_the_runner(tmp_path):
    """The runner reports the loss; only a restart of the server helps."""
    path = tiny_graphs.write(tmp_path / "m.frozen.pb", tiny_graphs.echo_detector())
    job = Job(name="m", kind="detection", graph=str(path), sidecar=None)
    runner = InlineRunner(job, arena_bytes=1 << 20)
    runner.open()

    def lost(_frames):
        raise errors.RunnerDied from tf.errors.InternalError(None, None, LOST[0])

    runner._session.run = lost
    frame = runner.allocate((8, 8, 3))
    with pytest.raises(errors.RunnerDied):
        runner.run([frame]).result(SECONDS)
    assert "ILLEGAL_ADDRESS" in runner.ended.result(SECONDS)
    assert "restart of the server" in runner.ended.result()
    frame.release()
    runner.close()
