"""Finding models by the names of their files."""

import hashlib
import os
import socket
import sys
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.core.errors import ModelError
from modelserver.engine.discovery import ModelFiles, discover, hint
from modelserver.tasks import CLASSIFICATION, DETECTION, by_kind

GRAPH = {"detection": ".frozen.pb", "classification": ".pb"}
LABELS = {"detection": ".label_map.pbtxt", "classification": ".pbtxt"}
KINDS = ["detection", "classification"]
kinds = pytest.mark.parametrize("kind", KINDS)


def fill(folder, *names):
    """Put small files of these names into a folder."""
    for name in names:
        (folder / name).write_bytes(name.encode("utf-8", "surrogateescape"))


def names(found):
    """Return the names of the models that were found, in their order."""
    return [model.name for model in found.models]


def only(sentences, *words):
    """Return the one warning, which must hold all of these words."""
    assert len(sentences) == 1, sentences
    for word in words:
        assert word in sentences[0]
    return sentences[0]


@kinds
def test_a_graph_and_its_label_map_are_a_model(tmp_path, kind):
    """The prefix names the model, and graph and label map lie beside each other."""
    fill(tmp_path, "seals" + GRAPH[kind], "seals" + LABELS[kind])
    found = discover(tmp_path, by_kind(kind))
    assert found.warnings == ()
    assert found.models == (
        ModelFiles(
            "seals",
            kind,
            tmp_path / ("seals" + GRAPH[kind]),
            tmp_path / ("seals" + LABELS[kind]),
            None,
        ),
    )


@kinds
@pytest.mark.parametrize(
    "prefix", ["v1.2.final", "my seals", "été", "海豹", "a..", "x~"]
)
def test_prefixes_hold_dots_spaces_and_any_letters(tmp_path, kind, prefix):
    """Any prefix becomes the model's name as it is."""
    fill(tmp_path, prefix + GRAPH[kind], prefix + LABELS[kind])
    found = discover(tmp_path, by_kind(kind))
    assert names(found) == [prefix]
    assert found.warnings == ()


def test_both_kinds_share_a_folder_in_silence(tmp_path):
    """Each app takes its own kind's files and says nothing about the other's."""
    fill(tmp_path, "x.frozen.pb", "x.label_map.pbtxt", "x.pb", "x.labels.txt", "y.pb")
    fill(tmp_path, "y.pbtxt", "z.frozen.pb", "z.label_map.pbtxt", "z.frozen.PB")
    fill(tmp_path, ".gitkeep", "README.md", "package.json", "notes.txt")
    (tmp_path / "z.frozen.PB").unlink()
    detection = discover(tmp_path, DETECTION)
    classification = discover(tmp_path, CLASSIFICATION)
    assert names(detection) == ["x", "z"]
    assert names(classification) == ["x", "y"]
    assert detection.warnings == classification.warnings == ()


def test_a_frozen_graph_is_never_a_classifier(tmp_path):
    """x.frozen.pb is no classifier x.frozen, nor x.label_map.pbtxt its label map."""
    fill(tmp_path, "x.frozen.pb", "x.label_map.pbtxt", "x.frozen.json")
    found = discover(tmp_path, CLASSIFICATION)
    assert found.models == ()
    only(found.warnings, "There is no classification model", hint(CLASSIFICATION))


def test_models_are_sorted_by_name(tmp_path):
    """The order is that of the names, not that of the folder."""
    fill(tmp_path, *(f"{name}.pb" for name in "cab"))
    assert names(discover(tmp_path, CLASSIFICATION)) == ["a", "b", "c"]


def test_a_saved_model_is_listed(tmp_path):
    """saved_model.pb is a file name like another; its graph is refused later."""
    fill(tmp_path, "saved_model.pb", "saved_model.pbtxt")
    assert names(discover(tmp_path, CLASSIFICATION)) == ["saved_model"]


@kinds
def test_a_graph_without_a_label_map_is_served_with_a_warning(tmp_path, kind):
    """The warning names the file that is expected."""
    fill(tmp_path, "seals" + GRAPH[kind])
    found = discover(tmp_path, by_kind(kind))
    assert found.models[0].labels is None
    only(found.warnings, "'seals'", repr("seals" + LABELS[kind]), "ids are given")


@kinds
def test_a_label_map_without_a_graph_is_named(tmp_path, kind):
    """A label map that nothing uses is probably misnamed."""
    fill(tmp_path, "a" + GRAPH[kind], "a" + LABELS[kind], "b" + LABELS[kind])
    found = discover(tmp_path, by_kind(kind))
    assert names(found) == ["a"]
    only(found.warnings, repr("b" + LABELS[kind]), repr("b" + GRAPH[kind]))


def test_plain_names_serve_a_classifier_only(tmp_path):
    """<prefix>.labels.txt is a label map beside a classifier, and nothing else."""
    fill(tmp_path, "x.pb", "x.frozen.pb", "x.labels.txt", "y.labels.txt")
    found = discover(tmp_path, CLASSIFICATION)
    assert found.models[0].labels == tmp_path / "x.labels.txt"
    only(found.warnings, "'y.labels.txt'", "no graph 'y.pb'")
    only(discover(tmp_path, DETECTION).warnings, "no label map 'x.label_map.pbtxt'")


def test_protobuf_text_is_preferred_to_plain_names(tmp_path):
    """With both label files there, one is used and the other is named."""
    fill(tmp_path, "x.pb", "x.pbtxt", "x.labels.txt")
    found = discover(tmp_path, CLASSIFICATION)
    assert found.models[0].labels == tmp_path / "x.pbtxt"
    only(found.warnings, "'x.labels.txt' is skipped", "'x.pbtxt' is used")


@kinds
def test_a_sidecar_belongs_to_the_graph_of_its_prefix(tmp_path, kind):
    """<prefix>.json is taken next to a graph; other JSON files are ignored."""
    fill(tmp_path, "x" + GRAPH[kind], "x" + LABELS[kind], "x.json", "tsconfig.json")
    (tmp_path / ".other.json").mkdir()
    found = discover(tmp_path, by_kind(kind))
    assert found.models[0].sidecar == tmp_path / "x.json"
    assert found.warnings == ()


def test_a_misnamed_sidecar_is_named(tmp_path):
    """x.frozen.json beside x.frozen.pb would silently change nothing."""
    fill(tmp_path, "x.frozen.pb", "x.label_map.pbtxt", "x.frozen.json")
    found = discover(tmp_path, DETECTION)
    assert found.models[0].sidecar is None
    only(found.warnings, "'x.frozen.json' is not used", "'x.json'")


def test_names_are_composed(tmp_path):
    """A file name in decomposed Unicode is served under the name that clients send."""
    short, long = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    fill(tmp_path, f"{long}.pb", f"{short}.pbtxt")
    found = discover(tmp_path, CLASSIFICATION)
    assert names(found) == [short]
    assert found.models[0].graph == tmp_path / f"{long}.pb"
    assert found.models[0].labels == tmp_path / f"{short}.pbtxt"
    assert found.warnings == ()


def test_two_spellings_of_one_name_clash(tmp_path):
    """Of two files with one composed name the composed one is used, with a warning."""
    short, long = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    fill(tmp_path, f"{long}.pb", f"{short}.pb", f"{long}.pbtxt")
    found = discover(tmp_path, CLASSIFICATION)
    assert names(found) == [short]
    assert found.models[0].graph == tmp_path / f"{short}.pb"
    only(found.warnings, ascii(f"{long}.pb"), "another Unicode form")


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("detection", ".frozen.pb", "no name before '.frozen.pb'"),
        ("classification", ".pb", "no name before '.pb'"),
        ("classification", " .pb", "no name before '.pb'"),
        ("classification", ".hidden.pb", "hidden"),
        ("detection", "._x.frozen.pb", "hidden"),
        ("detection", ".x.frozen.pb.swp", "hidden"),
        ("classification", "x.pb~", "unfinished"),
        ("detection", "x.frozen.pb.part", "unfinished"),
        ("classification", "x.pb.crdownload", "unfinished"),
        ("classification", "X.PB", "must be '.pb' in small letters"),
        ("detection", "x.Frozen.pb", "must be '.frozen.pb' in small letters"),
        ("classification", "a\nb.pb", "control characters"),
        ("classification", os.fsdecode(b"caf\xe9.pb"), "not UTF-8"),
    ],
)
def test_odd_names_are_skipped_with_one_warning(tmp_path, kind, name, why):
    """A file that is nearly a model's is left out and named once, in one line."""
    fill(tmp_path, name, "ok" + GRAPH[kind], "ok" + LABELS[kind])
    found = discover(tmp_path, by_kind(kind))
    assert names(found) == ["ok"]
    sentence = only(found.warnings, repr(name), why)
    assert "\n" not in sentence
    sentence.encode()


def test_the_other_kinds_odd_names_are_passed_over(tmp_path):
    """x.Frozen.pb is a misnamed detector and no classifier."""
    fill(tmp_path, "x.Frozen.pb", ".frozen.pb", "ok.pb", "ok.pbtxt")
    found = discover(tmp_path, CLASSIFICATION)
    assert names(found) == ["ok"]
    assert found.warnings == ()


def _folder(path):
    path.mkdir()


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _device_link(path):
    path.symlink_to("/dev/null")


def _outside_link(path):
    outside = path.parent.parent / "outside.pb"
    outside.write_bytes(b"secret")
    path.symlink_to(outside)


def _relative_outside_link(path):
    (path.parent.parent / "outside.pb").write_bytes(b"secret")
    path.symlink_to("../outside.pb")


def _sibling_link(path):
    sibling = path.parent.parent / (path.parent.name + "-not")
    sibling.mkdir()
    (sibling / "m.pb").touch()
    path.symlink_to(sibling / "m.pb")


def _broken_link(path):
    path.symlink_to("gone.pb")


def _loop(path):
    path.symlink_to(path.name)


def _sparse(path):
    path.touch()
    os.truncate(path, 3 * 1024**3)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_folder, "not a regular file"),
        (_fifo, "not a regular file"),
        (_socket, "not a regular file"),
        (_device_link, "not a regular file"),
        (_broken_link, "a link to nothing"),
        (_loop, "cannot be read"),
        (_sparse, "larger than 2000 MiB"),
    ],
)
def test_an_entry_that_is_no_regular_file_is_skipped(tmp_path, make, why, monkeypatch):
    """Each such entry is named once in a warning."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.chdir(folder)
    fill(folder, "ok.pb", "ok.pbtxt", "m.pbtxt")
    make(folder / "m.pb")
    found = discover(folder, CLASSIFICATION)
    assert names(found) == ["ok"]
    only(found.warnings, "'m.pb' is", why)


@pytest.mark.parametrize("make", [_outside_link, _relative_outside_link, _sibling_link])
def test_a_link_may_lead_out_of_the_folder(tmp_path, make, monkeypatch):
    """Volumes, snapshots and caches are made of such links."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.chdir(folder)
    fill(folder, "m.pbtxt")
    make(folder / "m.pb")
    found = discover(folder, CLASSIFICATION)
    assert names(found) == ["m"]
    assert found.warnings == ()


def test_a_label_map_that_cannot_be_used_leaves_the_model(tmp_path):
    """The model is served with ids, and both facts are logged."""
    fill(tmp_path, "m.pb")
    os.mkfifo(tmp_path / "m.pbtxt")
    found = discover(tmp_path, CLASSIFICATION)
    assert found.models[0].labels is None
    assert len(found.warnings) == 2
    assert "'m.pbtxt' is skipped" in found.warnings[0]
    assert "no label map 'm.pbtxt'" in found.warnings[1]


def test_unreadable_files_are_skipped(tmp_path, monkeypatch):
    """A file without permission is named with the system's reason."""
    fill(tmp_path, "m.pb", "ok.pb", "ok.pbtxt")
    really = os.open

    def guarded(path, *args, **kwargs):
        if Path(path).name == "m.pb":
            raise PermissionError(13, "Permission denied")
        return really(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded)
    found = discover(tmp_path, CLASSIFICATION)
    assert names(found) == ["ok"]
    only(found.warnings, "'m.pb' is skipped", "Permission denied")
    assert found.held == {("classification", "m"): found.warnings[0]}


@pytest.mark.parametrize(
    ("file", "bad"),
    [("m.pb", "large"), ("m.pbtxt", "link"), ("m.json", "folder"), ("m.pb", "fifo")],
)
def test_a_model_is_held_while_a_file_of_it_cannot_be_used(tmp_path, file, bad):
    """Its file is there, so it was not removed; a sentence says why it is held."""
    fill(tmp_path, "m.pb", "m.pbtxt", "m.json")
    path = tmp_path / file
    path.unlink()
    if bad == "large":
        with path.open("wb") as sparse:
            sparse.truncate(2001 << 20)
    elif bad == "link":
        path.symlink_to("/dev/null")
    else:
        path.mkdir() if bad == "folder" else os.mkfifo(path)
    found = discover(tmp_path, CLASSIFICATION)
    (((kind, name), reason),) = found.held.items()
    assert (kind, name) == ("classification", "m")
    assert reason.startswith(f"{file!r} is ")


def test_a_file_that_is_gone_or_has_an_odd_name_holds_no_model(tmp_path):
    """A link to nothing counts as no file."""
    fill(tmp_path, "m.pb", ".m.pbtxt", "m.json.part")
    (tmp_path / "m.pbtxt").symlink_to("nothing")
    assert discover(tmp_path, CLASSIFICATION).held == {}


def test_links_inside_the_folder_are_followed(tmp_path):
    """A link to a file in the folder or below it is a file like another."""
    (tmp_path / "..data").mkdir()
    fill(tmp_path / "..data", "m.pb")
    (tmp_path / "m.pb").symlink_to("..data/m.pb")
    fill(tmp_path, "m.pbtxt")
    found = discover(tmp_path, CLASSIFICATION)
    assert found.models[0].graph == tmp_path / "m.pb"
    assert found.warnings == ()


def test_the_folder_itself_may_be_a_link(tmp_path, monkeypatch):
    """A linked or relative model folder is the folder it leads to."""
    (tmp_path / "real").mkdir()
    fill(tmp_path / "real", "m.pb", "m.pbtxt")
    (tmp_path / "models").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "models", Path("models"), Path("real/../models")):
        found = discover(folder, CLASSIFICATION)
        assert names(found) == ["m"]
        assert found.warnings == ()


@kinds
def test_a_missing_folder_is_one_sentence(tmp_path, kind):
    """It says what is missing and what to put there."""
    found = discover(tmp_path / "models", by_kind(kind))
    assert found.models == ()
    only(found.warnings, "No such file", str(tmp_path / "models"), hint(by_kind(kind)))


@kinds
def test_an_empty_folder_is_one_sentence(tmp_path, kind):
    """It says which files make a model."""
    fill(tmp_path, ".gitkeep")
    only(
        discover(tmp_path, by_kind(kind)).warnings,
        f"no {kind} model",
        f"NAME{GRAPH[kind]}",
        f"NAME{LABELS[kind]}",
    )


def test_a_file_is_no_folder(tmp_path):
    """A MODEL_FOLDER that names a file gives a warning, not an error."""
    fill(tmp_path, "models")
    only(discover(tmp_path / "models", DETECTION).warnings, "Not a directory")


def one(tmp_path, *files):
    """Return the one classifier that these files make."""
    fill(tmp_path, *files)
    (model,) = discover(tmp_path, CLASSIFICATION).models
    return model


def test_a_fingerprint_sees_each_change(tmp_path):
    """A new size, time or file behind a name changes the fingerprint."""
    model = one(tmp_path, "m.pb", "m.pbtxt", "m.json")
    assert [stamp[0] for stamp in model.fingerprint] == ["m.pb", "m.pbtxt", "m.json"]
    fingerprints = {model.fingerprint}
    assert fingerprints == {model.fingerprint}
    model.graph.write_bytes(b"longer than it was before")
    fingerprints.add(model.fingerprint)
    os.utime(model.labels, ns=(1, 1))
    fingerprints.add(model.fingerprint)
    (tmp_path / "new").write_bytes(model.sidecar.read_bytes())
    (tmp_path / "new").rename(model.sidecar)
    fingerprints.add(model.fingerprint)
    model.sidecar.unlink()
    fingerprints.add(model.fingerprint)
    assert len(fingerprints) == 5
    assert model.fingerprint[2] == ("m.json", -1, -1, -1)


def test_a_digest_is_that_of_the_bytes(tmp_path, monkeypatch):
    """The digest depends on each file's bytes and role, not on names or times."""
    monkeypatch.setattr("modelserver.engine.discovery.files._CHUNK_BYTES", 2)
    model = one(tmp_path, "m.pb", "m.pbtxt")
    first = model.digest()
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in model.paths]
    text = f"graph {digests[0]}\nlabels {digests[1]}\n"
    assert first == hashlib.sha256(text.encode()).hexdigest()
    os.utime(model.graph, ns=(1, 1))
    assert model.digest() == first
    swapped = ModelFiles("m", "classification", model.labels, model.graph, None)
    as_sidecar = ModelFiles("m", "classification", model.graph, None, model.labels)
    model.graph.write_bytes(b"n.pb")
    assert len({first, swapped.digest(), as_sidecar.digest(), model.digest()}) == 4


def test_a_digest_of_a_missing_file_is_a_models_error(tmp_path):
    """A file that went away fails this model with a sentence."""
    model = one(tmp_path, "m.pb", "m.pbtxt")
    model.labels.unlink()
    with pytest.raises(ModelError, match=r"m.pbtxt cannot be read: No such file"):
        model.digest()


def test_a_digest_never_waits_for_a_fifo(tmp_path):
    """A FIFO that took the file's place after discovery does not block the reader."""
    model = one(tmp_path, "m.pb")
    model.graph.unlink()
    os.mkfifo(model.graph)
    with pytest.raises(ModelError, match="not a regular file"):
        model.digest()


words = ". frozen pb pbtxt label_map labels txt json PB ~ x é e\N{COMBINING ACUTE ACCENT} tmp"
parts = st.sampled_from([*words.split(), " ", "\n", "\udce9"])
file_names = (
    st.lists(parts, min_size=1, max_size=7)
    .map("".join)
    .filter(lambda name: name not in {".", ".."})
)


@settings(max_examples=150, deadline=None)
@given(st.lists(file_names, max_size=6, unique=True))
def test_any_folder_can_be_scanned(listing):
    """With any names, each graph is one model of one kind, or is named."""
    with TemporaryDirectory() as folder:
        fill(Path(folder), *listing)
        for kind in KINDS:
            found = discover(Path(folder), by_kind(kind))
            assert names(found) == sorted(set(names(found)))
            text = " ".join(found.warnings)
            text.encode()
            used = {path.name for model in found.models for path in model.paths}
            for name in listing:
                frozen = name.lower().endswith(".frozen.pb")
                mine = frozen if kind == "detection" else name.endswith(".pb")
                if mine and not (kind == "classification" and frozen):
                    assert name in used or repr(name) in text or ascii(name) in text
                assert not (kind == "classification" and frozen and name in used)


@pytest.mark.process
def test_discovery_needs_no_framework():
    """Looking for models imports neither TensorFlow nor protobuf."""
    code = "import modelserver.engine.discovery, sys; print('google.protobuf' in sys.modules)"
    import subprocess

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert out.stdout.strip() == b"False"


def test_two_kinds_are_found_in_one_scan(tmp_path):
    """A name may have both kinds; what each lacks is warned of once."""
    for name in ("m.frozen.pb", "m.label_map.pbtxt", "m.pb", "only.pb", "only.pbtxt"):
        (tmp_path / name).touch()
    found = discover(tmp_path, DETECTION, CLASSIFICATION)
    assert [files.key for files in found.models] == [
        ("classification", "m"),
        ("detection", "m"),
        ("classification", "only"),
    ]
    only(found.warnings, "'m' has no label map 'm.pbtxt'")
    assert found.hint == ""


def test_a_folder_without_a_model_of_either_kind_is_one_warning(tmp_path):
    """It says which files to put there for each kind."""
    found = discover(tmp_path, DETECTION, CLASSIFICATION)
    (warning,) = found.warnings
    assert "no detection or classification model" in warning
    assert found.hint == (
        "put NAME.frozen.pb and NAME.label_map.pbtxt, or NAME.pb and NAME.pbtxt into "
        "the model folder"
    )
