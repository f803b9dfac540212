"""The cards that are used, and the models on each; with a stand-in for the driver."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import cuda
from modelserver.core.cuda import nodes
from modelserver.engine.runners import cards, environment
from modelserver.engine.runners.cards import Card, Memory, Survey
from modelserver.engine.runners.placement import Placement, expected_bytes
from support.fake_nvml import GIB, FakeCard, FakeNvml


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Give a machine that shows nothing of NVIDIA but a test's driver."""
    monkeypatch.setattr(nodes, "_DEV", tmp_path / "dev")
    monkeypatch.setattr(nodes, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(nodes, "_WSL_DRIVERS", tmp_path / "wsl")
    return tmp_path


@pytest.fixture
def driver(monkeypatch):
    """Give a function that plugs a driver in."""

    def plug(*those, **more):
        nvml = FakeNvml(*those, **more)
        monkeypatch.setattr(cards, "pynvml", nvml)
        return nvml

    return plug


def survey(chosen=None, **environ):
    """Return the cards for a value of CUDA_VISIBLE_DEVICES; ``None``: not set."""
    if chosen is not None:
        environ["CUDA_VISIBLE_DEVICES"] = chosen
    return cards.survey(environ)


def named(found):
    """Return the cards' names for CUDA."""
    return [card.gpu for card in found.cards]


class TestTheSurvey:
    """The survey takes from a driver as much as it gives."""

    def test_cards_are_named_by_uuid_and_counted_as_by_nvidia_smi(self, driver):
        """They have its order, its numbers and its names."""
        nvml = driver(FakeCard(0), FakeCard(1, name=b"NVIDIA H200", uuid=b"GPU-9"))
        found = survey()
        assert named(found) == ["GPU-0000aaaa", "GPU-9"]
        assert [card.words for card in found.cards] == ["GPU 0", "GPU 1"]
        assert found.cards[1].name == "NVIDIA H200"
        assert found.problems == ()
        assert nvml.open == 0

    def test_mig_instances_are_named_by_theirs(self, driver):
        """The card itself can no longer be used as a whole."""
        halves = [FakeCard(0, uuid=f"MIG-{n}", name="3g.20gb") for n in range(2)]
        driver(FakeCard(0, instances=halves), FakeCard(1))
        found = survey()
        assert named(found) == ["MIG-0", "MIG-1", "GPU-1111aaaa"]
        assert found.cards[1].words == "GPU 0 MIG 1"
        assert named(survey("GPU-0000")) == ["MIG-0", "MIG-1"]
        assert named(survey("MIG-1")) == ["MIG-1"]

    def test_a_card_with_mig_on_and_no_instance_is_a_problem(self, driver):
        """The sentence says how to make an instance."""
        driver(FakeCard(0, instances=[]))
        found = survey()
        assert found.cards == ()
        assert "nvidia-smi mig" in found.no_gpu

    @pytest.mark.parametrize("words", ["Insufficient Permissions", "GPU is lost"])
    def test_a_card_that_may_not_be_opened_is_passed_over(self, words, driver):
        """NVML counts it all the same, and the others keep their numbers."""
        fails = {"nvmlDeviceGetHandleByIndex": words}
        driver(FakeCard(0, fails=fails), FakeCard(1))
        found = survey()
        assert [card.words for card in found.cards] == ["GPU 1"]
        assert found.problems == (f"GPU 0 is passed over: {words}.",)

    def test_without_a_uuid_the_number_is_the_name(self, driver):
        """Numbers are nvidia-smi's in the child, too (CUDA_DEVICE_ORDER)."""
        fails = {"nvmlDeviceGetUUID": "Not Supported", "nvmlDeviceGetName": "?"}
        driver(FakeCard(0, fails=fails))
        found = survey()
        assert named(found) == ["0"]
        assert found.cards[0].name == "unknown"

    @pytest.mark.parametrize(
        "lacks",
        ["nvmlDeviceGetMigMode", "nvmlDeviceGetUUID", "nvmlDeviceGetName"],
    )
    def test_an_old_driver_that_lacks_a_call_costs_that_value_only(self, lacks, driver):
        """The card is used all the same."""
        driver(FakeCard(0), lacks=[lacks])
        assert len(survey().cards) == 1

    def test_a_shutdown_that_fails_is_ignored(self, driver):
        """All values are there by then."""
        driver(FakeCard(0), fails=["nvmlShutdown"])
        assert len(survey().cards) == 1

    def test_a_machine_without_nvidia_is_left_alone(self, driver):
        """CUDA_VISIBLE_DEVICES makes no problem there, with any value."""
        driver(absent=True)
        for chosen in (None, "", "0", "nonsense"):
            found = survey(chosen)
            assert (found.cards, found.problems) == ((), ())
            assert found.no_gpu == ""

    def test_a_container_without_utility_is_a_problem(self, driver, bare):
        """Its nodes are there and the driver's library is not."""
        (bare / "dev").mkdir()
        for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
            (bare / "dev" / name).touch()
        driver(absent=True)
        found = survey()
        assert found.cards == ()
        assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in found.no_gpu

    @pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount"])
    def test_if_nvml_fails_the_drivers_own_list_is_taken(self, fails, driver, bare):
        """It takes those cards that have a node here."""
        uuid = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
        (bare / "dev").mkdir()
        (bare / "dev" / "nvidia1").touch()
        for minor in (0, 1):
            folder = bare / "proc" / "gpus" / f"0000:0{minor}:00.0"
            folder.mkdir(parents=True)
            (folder / "information").write_text(
                f"Model: \t\t NVIDIA L4\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
            )
        driver(FakeCard(0), fails=[fails])
        found = survey()
        assert named(found) == [uuid]
        assert found.cards[0].name == "NVIDIA L4"
        assert "Unknown Error" in found.problems[0]

    def test_a_driver_that_is_not_loaded_is_a_problem(self, driver):
        """This happens after an update of the kernel."""
        nvml = driver(FakeCard(0))
        nvml.fails["nvmlInit"] = "Driver Not Loaded"
        assert "Driver Not Loaded" in survey().no_gpu

    def test_a_driver_without_cards_is_a_problem(self, driver):
        """This happens if a card was taken out."""
        driver()
        assert "lists no card" in survey().no_gpu

    def test_names_are_taken_as_they_are_if_no_card_can_be_listed(self, driver):
        """An operator who names a card may know more than a driver that fails."""
        driver(fails=["nvmlInit"])
        assert named(survey("1,GPU-ab")) == ["1", "GPU-ab"]

    def test_another_order_is_warned_of_and_not_followed(self, driver):
        """Its numbers would be those of neither tool."""
        driver(FakeCard(0), FakeCard(1))
        found = survey("1", CUDA_DEVICE_ORDER="FASTEST_FIRST")
        assert named(found) == ["GPU-1111aaaa"]
        assert "FASTEST_FIRST" in found.problems[0]


FOUR = [FakeCard(0), FakeCard(1), FakeCard(2), FakeCard(3, uuid="GPU-1111bbbb")]


class TestVisibleDevices:
    """CUDA_VISIBLE_DEVICES is read as people write it."""

    @pytest.mark.parametrize(
        ("chosen", "numbers"),
        [
            ("2", [2]),
            ("2,0", [2, 0]),
            (" 2 , 0 ", [2, 0]),
            ("GPU-2222aaaa", [2]),
            ("GPU-2", [2]),
            ("gpu-2222AAAA", [2]),
            ("GPU-1111a,0", [1, 0]),
        ],
    )
    def test_cards_in_the_order_that_they_are_named(self, chosen, numbers, driver):
        """Cards are named by nvidia-smi's number, by UUID or by its beginning."""
        driver(*FOUR)
        found = survey(chosen)
        assert [card.number for card in found.cards] == numbers
        assert found.problems == ()

    @pytest.mark.parametrize("chosen", ["", " ", "-1", "NoDevFiles", "none", "void"])
    def test_no_card_on_purpose_is_no_problem(self, chosen, driver):
        """The survey is empty and has no problems."""
        driver(*FOUR)
        assert survey(chosen) == Survey(unwanted=True)

    @pytest.mark.parametrize(
        ("chosen", "numbers", "words"),
        [
            ("1,7,0", [1], "there is no card '7'"),
            ("GPU-7", [], "there is no card 'GPU-7'"),
            ("GPU-1", [], "more than one card's UUID"),
            ("0,,1", [0], "'' names no card"),
            ("0,-1,1", [0], "'-1' names no card"),
            ("-2", [], "'-2' names no card"),
            ("all", [], "unset it for all"),
            ("0x1", [], "'0x1' names no card"),
            ("\u00b2", [], "'\\xb2' names no card"),
            ("\u0661", [], "names no card"),
            ("cuda:0", [], "names no card"),
            ("0 1", [], "names no card"),
            ("99999999999", [], "names no card"),
        ],
    )
    def test_an_entry_that_names_no_card_ends_the_list_with_a_sentence(
        self, chosen, numbers, words, driver
    ):
        """CUDA ends the list there too, but without the sentence."""
        driver(*FOUR)
        found = survey(chosen)
        assert [card.number for card in found.cards] == numbers
        assert words in found.problems[0]
        assert found.problems[0].startswith("CUDA_VISIBLE_DEVICES=")
        assert bool(found.no_gpu) is not bool(numbers)

    @pytest.mark.parametrize("chosen", ["0,0", "0,GPU-0000aaaa", "0,1,0"])
    def test_a_card_that_is_named_twice_is_used_once(self, chosen, driver):
        """A sentence says so."""
        driver(*FOUR)
        found = survey(chosen)
        numbers = [card.number for card in found.cards]
        assert numbers == list(dict.fromkeys(numbers))
        assert "twice" in found.problems[0]

    @given(st.text(st.sampled_from("0123-,GPUMIGgpu-/ ab\u00b2x\n"), max_size=30))
    def test_any_value_is_read(self, chosen):
        """Each card is there once at most, and a reason if none is left."""
        those = [
            Card(card.uuid, "w", "n", number, card.uuid)
            for number, card in enumerate(FOUR)
        ]
        found = cards.select(those, chosen)
        assert len(set(found.cards)) == len(found.cards)
        assert set(found.cards) <= set(those)
        assert found.cards or found.problems or found.unwanted
        assert all(problem.isprintable() for problem in found.problems)


class TestMemory:
    """A card that does not give its memory leaves the others theirs."""

    def test_each_cards_memory_is_measured_or_unknown(self, driver):
        """The log's sentence has free and total memory."""
        driver(
            FakeCard(0, free=3 * GIB),
            FakeCard(1, fails={"nvmlDeviceGetMemoryInfo": "Not Supported"}),
        )
        found = survey().cards
        measured = cards.memory(found)
        assert measured == {
            "GPU-0000aaaa": Memory(3 * GIB, 24 * GIB),
            found[1].gpu: None,
        }
        words = [cards.describe(card, measured[card.gpu]) for card in found]
        assert words == [
            "GPU 0: NVIDIA L4, 3.0 of 24.0 GiB free",
            "GPU 1: NVIDIA L4, its memory is not told",
        ]

    def test_memory_is_unknown_if_nvml_fails(self, driver):
        """Unknown memory is not zero."""
        driver(FakeCard(0))
        found = survey().cards
        driver(fails=["nvmlInit"])
        assert cards.memory(found) == {"GPU-0000aaaa": None}

    def test_a_card_without_permission_costs_its_own_values_only(self, driver):
        """The other cards' processes are still counted."""
        refused = {"nvmlDeviceGetHandleByIndex": "Insufficient Permissions"}
        driver(
            FakeCard(0, fails=refused, processes={5: 9}),
            FakeCard(1, processes={5: 100, 6: 7}),
            FakeCard(2, processes={5: 1}),
        )
        assert cards.memory_by_process() == {5: 101, 6: 7}

    def test_a_process_of_unknown_memory_is_left_out(self, driver):
        """WSL gives none, and half of a process's memory would be wrong."""
        driver(FakeCard(0, processes={5: None, 6: 7}), FakeCard(1, processes={5: 3}))
        assert cards.memory_by_process() == {6: 7}

    @pytest.mark.parametrize(
        "fails",
        ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetComputeRunningProcesses"],
    )
    def test_a_driver_that_fails_lists_no_process(self, fails, driver):
        """No error is raised."""
        nvml = driver(FakeCard(0, processes={5: 9}), fails=[fails, "nvmlShutdown"])
        assert cards.memory_by_process() == {}
        assert nvml.open == 0


def some(*free):
    """Make cards and their free memory in GiB, which a test may change."""
    those = [Card(f"GPU-{n}", f"GPU {n}", "x", n, f"GPU-{n}") for n in range(len(free))]
    return those, {card.gpu: gib for card, gib in zip(those, free, strict=True)}


def placement(those, free):
    """Make a placement over cards whose memory a test changes."""

    def measure(asked):
        return {
            card.gpu: None
            if free[card.gpu] is None
            else Memory(free[card.gpu] * GIB, GIB)
            for card in asked
        }

    return Placement(those, measure)


class TestPlacement:
    """Models are assigned to cards that have room."""

    def test_a_model_goes_to_the_card_with_most_free_memory(self):
        """Cards do not take turns if their memory is known."""
        placed = placement(*some(2, 9, 5))
        assert placed.assign("a", GIB).number == 1

    def test_loads_side_by_side_count_the_memory_expected_by_others(self):
        """The memory of a load under way cannot be measured yet."""
        placed = placement(*some(10, 9))
        taken = [placed.assign(name, 2 * GIB).number for name in "abcd"]
        assert taken == [0, 1, 0, 1]

    def test_a_loaded_models_memory_is_measured(self):
        """The measured value replaces the expected one."""
        those, free = some(10, 9)
        placed = placement(those, free)
        assert placed.assign("a", 8 * GIB).number == 0
        placed.confirm("a", those[0])
        assert placed.assign("b", GIB).number == 0
        free["GPU-0"] = 3
        assert placed.assign("c", GIB).number == 1

    def test_a_model_stays_over_reloads(self):
        """The new version joins the old one even if another card has more room."""
        those, free = some(10, 9)
        placed = placement(those, free)
        assert placed.assign("a", GIB).number == 0
        placed.confirm("a", those[0])
        free["GPU-0"] = 1
        assert placed.assign("a", GIB).number == 0
        placed.confirm("a", those[0])
        placed.release("a", those[0])
        assert placed.assign("a", GIB).number == 0

    def test_a_reload_that_its_card_fails_tries_another(self):
        """Another program may have filled the card; the old version serves there."""
        those, free = some(10, 9)
        placed = placement(those, free)
        assert placed.assign("a", GIB).number == 0
        placed.confirm("a", those[0])
        for number in (0, 1, 0, 1):
            assert placed.assign("a", GIB).number == number
            placed.fail("a", those[number])
        assert placed.assign("a", GIB).number == 0
        placed.fail("a", those[0])
        assert placed.assign("a", GIB).number == 1
        placed.confirm("a", those[1])
        placed.release("a", those[0])
        assert placed.assign("a", GIB).number == 1

    def test_an_old_version_that_ends_leaves_the_new_ones_expected_memory(self):
        """The two versions need not be on one card."""
        those, free = some(10, 9)
        placed = placement(those, free)
        placed.assign("a", GIB)
        placed.confirm("a", those[0])
        placed.assign("a", GIB)
        placed.fail("a", those[0])
        assert placed.assign("a", 5 * GIB).number == 1
        placed.release("a", those[0])
        free["GPU-0"] = 6
        assert placed.assign("b", GIB).number == 0

    def test_a_model_that_died_comes_back_to_its_card_if_there_is_room(self):
        """Else it goes to a card that has room."""
        those, free = some(10, 9)
        placed = placement(those, free)
        placed.assign("a", GIB)
        placed.confirm("a", those[0])
        placed.release("a", those[0])
        free["GPU-1"] = 20
        assert placed.assign("a", GIB).number == 0
        placed.release("a", those[0])
        free["GPU-0"] = 0
        assert placed.assign("a", GIB).number == 1

    def test_a_removed_model_frees_its_share(self):
        """Neither its turn nor its expected memory stays."""
        placed = placement(*some(10, 9))
        placed.release("a", placed.assign("a", 5 * GIB))
        assert placed.assign("b", GIB).number == 0

    def test_a_model_whose_card_failed_it_tries_another(self):
        """The first card is tried again once all have failed."""
        placed = placement(*some(10, 9))
        for number in (0, 1, 0):
            card = placed.assign("a", GIB)
            assert card.number == number
            placed.fail("a", card)
        assert placed.assign("b", GIB).number == 0

    def test_if_memory_is_unknown_cards_take_turns(self):
        """The card with the fewest models is next, so a removed one's turn is free."""
        those, free = some(None, 4)
        placed = placement(those, free)
        taken = [placed.assign(name, GIB).number for name in "abc"]
        assert taken == [0, 1, 0]
        placed.release("b", those[1])
        assert placed.assign("d", GIB).number == 1

    def test_without_cards_none_is_assigned(self):
        """Releasing nothing is harmless."""
        placed = Placement(())
        assert placed.assign("a", GIB) is None
        for done in (placed.confirm, placed.release, placed.fail):
            done("a", None)

    def test_a_models_memory_is_estimated(self):
        """The estimate follows its file, or the memory that it may have."""
        assert expected_bytes(100, 0) == (800 << 20) + 400
        assert expected_bytes(100, 512) == (1312 << 20)


class TestOneProcess:
    """With ISOLATION=inline all models share the front's cards."""

    def test_a_process_sees_all_cards_but_one_instance(self):
        """CUDA shows no second MIG instance."""
        those, _ = some(1, 1)
        half = Card("MIG-1", "GPU 0 MIG 0", "x", 0, mig=True)
        assert environment.usable_together(those) == tuple(those)
        assert environment.usable_together([half, *those]) == (half,)
        assert environment.usable_together([those[0], half]) == (those[0],)

    def test_cards_are_named_before_tensorflow_is_imported(self, monkeypatch):
        """TensorFlow does not read the variables after its import."""
        import os
        import sys

        those, _ = some(1, 1)
        monkeypatch.setattr(os, "environ", {})
        environment.show_cards(those)
        tensorflow = "tensorflow" in sys.modules
        assert ("CUDA_VISIBLE_DEVICES" in os.environ) is not tensorflow
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
        environment.show_cards(those)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


class TestTheNodes:
    """The causes that keep this user from a card are found."""

    @pytest.fixture
    def dev(self, bare):
        """Make an empty /dev."""
        (bare / "dev").mkdir()
        (bare / "proc").mkdir()
        return bare / "dev"

    def test_nothing_is_no_sign(self, dev):
        """A machine without a GPU shows no signs."""
        assert not cuda.any_signs()
        assert cuda.hindrance() == ""

    def test_a_driver_without_nodes(self, dev, bare):
        """A container may lack its card's nodes."""
        (bare / "proc" / "version").touch()
        assert cuda.any_signs()
        assert "--gpus all" in cuda.hindrance()

    def test_nodes_that_may_not_be_opened(self, dev, monkeypatch):
        """Permissions or a device controller may forbid it."""
        for name in ("nvidia0", "nvidiactl", "nvidia-uvm", "null"):
            (dev / name).touch()
        assert cuda.hindrance() == ""
        real = nodes.os.open

        def refuse(path, *more):
            if path.name == "nvidia0":
                raise PermissionError(1, "Operation not permitted")
            return real(path, *more)

        monkeypatch.setattr(nodes.os, "open", refuse)
        assert cuda.hindrance().startswith("/dev/nvidia0 cannot be opened")

    def test_a_module_that_was_not_loaded(self, dev):
        """A headless machine may lack the module after its start."""
        for name in ("nvidia0", "nvidiactl"):
            (dev / name).touch()
        assert "/dev/nvidia-uvm is not there" in cuda.hindrance()
        assert "nvidia-modprobe" in cuda.hindrance()

    @pytest.mark.parametrize("shown", ["lib/libcuda.so.1", "drivers/nv_dispi.inf_a/x"])
    def test_wsl_has_one_node(self, shown, dev, bare):
        """WSL has no other nodes; NVIDIA's driver lies with Windows's."""
        (dev / "dxg").touch()
        file = bare / "wsl" / shown
        file.parent.mkdir(parents=True)
        file.touch()
        assert cuda.any_signs()
        assert cuda.hindrance() == ""

    def test_wsl_without_nvidia_is_no_sign(self, dev, bare, driver):
        """WSL's node is there for cards of every make, so nothing is warned of."""
        (dev / "dxg").touch()
        (bare / "wsl" / "drivers" / "iigd_dch.inf_amd64").mkdir(parents=True)
        assert not cuda.any_signs()
        driver(absent=True)
        assert cards.survey({}) == Survey()


@pytest.mark.parametrize(
    ("answer", "version"),
    [("550.54.14", "550.54.14"), (b"535.1", "535.1"), (None, "")],
)
def test_the_drivers_version_is_known_if_nvml_knows_it(monkeypatch, answer, version):
    """Old libraries give bytes; one that fails gives nothing."""
    known = {"nvmlInit": lambda: None, "nvmlShutdown": lambda: None}
    known["nvmlSystemGetDriverVersion"] = lambda: answer
    known["NVMLError"] = RuntimeError
    monkeypatch.setattr(cards, "pynvml", SimpleNamespace(**known))
    assert cards.driver() == version
    del known["nvmlInit"]
    monkeypatch.setattr(cards, "pynvml", SimpleNamespace(**known))
    assert cards.driver() == ""
