"""Golden files next to a model: found by name, and part of its identity."""

import pytest

from modelserver.engine import discovery
from modelserver.tasks import DETECTION, by_kind


def found(folder, kind="detection", **files):
    """Discover a folder with a model ``m`` and more files, by ending."""
    graph = "m.frozen.pb" if kind == "detection" else "m.pb"
    labels = "m.label_map.pbtxt" if kind == "detection" else "m.pbtxt"
    for name in (graph, labels, *files):
        (folder / name).write_text(files.get(name, "1"))
    return discovery.discover(folder, by_kind(kind))


@pytest.mark.parametrize("kind", ["detection", "classification"])
@pytest.mark.parametrize("photo", ["m.test.jpg", "m.test.png"])
def test_a_photo_and_its_answer_are_found_together(kind, photo, folder):
    """The answer is not taken for a sidecar."""
    result = found(folder, kind, **{photo: "p", "m.expected.json": "e"})
    (model,) = result.models
    assert model.image == folder / photo
    assert model.expected == folder / "m.expected.json"
    assert model.sidecar is None
    assert model.paths[-2:] == (model.image, model.expected)
    assert result.warnings == ()


@pytest.mark.parametrize(
    ("there", "missing"),
    [("m.test.jpg", "m.expected.json"), ("m.expected.json", "m.test.jpg")],
)
def test_one_without_the_other_is_not_used(there, missing, folder):
    """The log names the file that is missing."""
    result = found(folder, **{there: "1"})
    assert result.models[0].image is None
    assert result.models[0].expected is None
    assert result.warnings == (
        f"{there!r} is not used: there is no {missing!r} beside it.",
    )


def test_photos_without_a_model_are_passed_over(folder):
    """Any photo may lie there."""
    result = found(folder, **{"x.test.jpg": "1", "x.expected.json": "1"})
    assert [model.name for model in result.models] == ["m"]
    assert result.warnings == ()


def test_golden_files_are_part_of_the_identity_but_not_of_the_digest(folder):
    """The digest is of the model, the identity of the checked answer too."""

    def facts(**files):
        (model,) = found(folder, **files).models
        digest = model.digest()
        return digest, model.identity(digest), model.stamp

    golden = {"m.test.jpg": "p", "m.expected.json": "e"}
    plain = facts()
    both = facts(**golden)
    other = facts(**{**golden, "m.expected.json": "another"})
    assert plain[0] == both[0] == other[0]
    assert len({plain[1], both[1], other[1]}) == 3
    assert len({plain[2], both[2], other[2]}) == 3
    assert facts(**{**golden, "m.expected.json": "e"})[1] == both[1]


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(folder):
    """No model may be taken for removed."""
    assert discovery.discover(folder, DETECTION).readable
    assert not discovery.discover(folder / "none", DETECTION).readable
