"""Results of checks are kept by content, and believed only if they are ours and whole."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from modelserver.engine.runners.cards import NO_CARDS, Card, Survey
from modelserver.tools.cli import main
from modelserver.tools.doctor import (
    KeptChecks,
    cache_folder,
    check_folder,
    checks,
    kept_checks,
)
from modelserver.tools.doctor.reports import Photo
from support import tiny_graphs
from support.app_client import make_settings, photo

RED, BLUE = (Photo("shot.png", photo(colour)) for colour in ((255, 0, 0), (0, 0, 255)))
LABELS = 'item { id: 1 name: "%s" }\n'


@pytest.fixture
def cache(tmp_path):
    """A cache folder that nothing is kept in yet."""
    return tmp_path / "cache" / "modelserver" / "checks"


@pytest.fixture
def looked(monkeypatch):
    """The names of the models that were loaded and run."""
    names = []
    check = checks._check

    def noting(files, *rest):
        names.append(files.name)
        return check(files, *rest)

    monkeypatch.setattr(checks, "_check", noting)
    return names


@pytest.fixture
def models(folder):
    """A folder with a classifier, and a graph that is cut off."""
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    (folder / "m.pbtxt").write_text(LABELS % "red")
    (folder / "broken.pb").write_bytes((folder / "m.pb").read_bytes()[:40])
    return folder


def check(folder, cache, shot=RED, **options):
    """Check a folder with sessions in this process, and keep the results."""
    settings = make_settings(MODEL_FOLDER=folder, ISOLATION="inline")
    kept = KeptChecks(cache, settings, NO_CARDS, {}, **options)
    return check_folder(settings, shot, kept=kept)


def without_dates(report):
    """A report's models, as if they had been checked just now."""
    return [msgspec.structs.replace(model, kept="") for model in report.models]


def test_what_has_not_changed_is_not_looked_at_again(models, cache, looked):
    """The report is the same and says since when; errors in files are kept, too."""
    first = check(models, cache)
    again = check(models, cache)
    assert looked == ["broken", "m"]
    assert [model.kept for model in first.models] == ["", ""]
    assert all(model.kept.startswith("20") for model in again.models)
    assert without_dates(again) == list(first.models)
    assert again.findings == first.findings
    assert not again.ok


def test_only_what_has_changed_is_looked_at(models, cache, looked):
    """A model that came is checked, the others are not."""
    check(models, cache)
    looked.clear()
    tiny_graphs.write(models / "new.pb", tiny_graphs.classifier())
    check(models, cache)
    assert looked == ["new"]


def test_fresh_looks_again_and_keeps_that(models, cache, looked):
    """Whatever was kept before."""
    check(models, cache)
    assert [m.kept for m in check(models, cache, fresh=True).models] == ["", ""]
    check(models, cache)
    assert looked == ["broken", "m"] * 2


@pytest.mark.parametrize("name", ["m.pb", "m.pbtxt", "m.json"])
def test_a_file_with_another_content_is_looked_at(models, cache, looked, name):
    """Whether it is of the same size and time or not; back again is as before."""
    path = models / name
    contents = {
        "m.pb": (models / "m.pb").read_bytes() + b"\x22\x00",  # an empty field more
        "m.pbtxt": (LABELS % "der").encode(),
        "m.json": b'{"scale": 0.5}',
    }
    before = path.read_bytes() if path.exists() else None
    check(models, cache)
    stamps = (path.stat() if before is not None else models.stat()).st_mtime_ns
    path.write_bytes(contents[name])
    os.utime(path, ns=(stamps, stamps))
    looked.clear()
    check(models, cache)
    assert looked == ["m"]
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)
    check(models, cache)
    assert looked == ["m"]


OTHERWISE = {
    "a setting": {"settings": {"SCORE_FLOOR": "0.2"}},
    "a photo": {"shot": BLUE},
    "a photo's name": {"shot": Photo("other.png", RED.data)},
    "a card": {"survey": Survey((Card("GPU-1", "GPU 0", "a card", 0),))},
    "a variable": {"environ": {"TF_ENABLE_ONEDNN_OPTS": "0"}},
}


@pytest.mark.parametrize("options", OTHERWISE.values(), ids=OTHERWISE)
def test_what_else_alters_a_result_is_a_reason_to_look(models, cache, options):
    """A result under one setting, photo or device says nothing of another."""
    settings = make_settings(MODEL_FOLDER=models, **options.get("settings", {}))
    files = checks._discover(models)[0][0]

    def key(settings, survey=NO_CARDS, shot=RED, environ=None):
        return KeptChecks(cache, settings, survey, environ or {}).key(files, shot)

    plain = key(make_settings(MODEL_FOLDER=models))
    assert key(make_settings(MODEL_FOLDER=models)) == plain
    others = {k: v for k, v in options.items() if k != "settings"}
    assert key(settings, **others) != plain


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (kept_checks.modelserver, "__version__"),
        (kept_checks.sys, "version"),
        (kept_checks.metadata, "version"),
        (kept_checks, "_digest_of_package"),
    ],
    ids=["of this package", "of Python", "of TensorFlow", "of a checkout"],
)
def test_another_version_is_a_reason_to_look(models, cache, monkeypatch, place, name):
    """Also one of a checkout whose number has not changed."""
    files = checks._discover(models)[0][0]
    settings = make_settings()
    before = KeptChecks(cache, settings, NO_CARDS, {}).key(files, RED)
    other = "9.9" if isinstance(getattr(place, name), str) else lambda *_: "9.9"
    monkeypatch.setattr(place, name, other)
    assert KeptChecks(cache, settings, NO_CARDS, {}).key(files, RED) != before


def open_to_all(path):
    """Let everybody write it."""
    path.chmod(0o666)


def behind_a_link(path):
    """Put a link in its place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a bit": lambda path: path.write_bytes(path.read_bytes().replace(b"e", b"a")),
    "no text": lambda path: path.write_bytes(b"\xff\n\xff"),
    "too long": lambda path: path.write_bytes(path.read_bytes() + bytes(2 << 20)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "anybody's": open_to_all,
    "a link": behind_a_link,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_kept_result_that_may_not_be_ours_is_ignored(models, cache, looked, damage):
    """It is looked at again, and a result that can be kept takes its place."""
    check(models, cache)
    for path in cache.iterdir():
        damage(path)
    looked.clear()
    assert [model.kept for model in check(models, cache).models] == ["", ""]
    assert looked == ["broken", "m"]


def test_a_result_under_anothers_name_is_ignored(models, cache, looked):
    """It holds what it is about."""
    check(models, cache)
    one, other = cache.iterdir()
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    looked.clear()
    check(models, cache)
    assert looked == ["broken", "m"]


def test_a_folder_that_others_can_write_is_not_used(models, cache, looked):
    """Neither to read nor to write."""
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    check(models, cache)
    check(models, cache)
    assert list(cache.iterdir()) == []
    assert looked == ["broken", "m"] * 2


def test_files_are_for_their_owner_alone(models, cache):
    """And nothing else is left in the folder."""
    check(models, cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in cache.iterdir()] == [0o600] * 2


def test_a_folder_that_cannot_be_made_hinders_nothing(models, tmp_path, looked):
    """A file is in its place, or there is none to be."""
    (tmp_path / "cache").write_text("")
    for cache in (tmp_path / "cache" / "checks", None):
        check(models, cache)
    assert looked == ["broken", "m"] * 2


def test_a_failure_of_the_moment_is_not_kept(models, cache, looked):
    """A photo that cannot be run, say: the next time it may be otherwise."""
    for _ in range(2):
        check(models, cache, Photo("x.txt", b"no photo"))
    assert looked == ["broken", "m", "m"]


def test_a_model_that_changes_while_it_is_checked_is_not_kept(
    models, cache, monkeypatch, looked
):
    """The result may be of either content."""
    noting = checks._check

    def changing(files, *rest):
        result = noting(files, *rest)
        if files.name == "m":
            files.labels.write_text(LABELS % f"red {len(looked)}")
        return result

    monkeypatch.setattr(checks, "_check", changing)
    for _ in range(2):
        check(models, cache)
    assert looked == ["broken", "m", "m"]


def test_a_model_that_cannot_be_read_has_no_key(models, cache):
    """Nothing is kept of it."""
    files = checks._discover(models)[0][1]
    kept = KeptChecks(cache, make_settings(), NO_CARDS, {})
    gone = replace(files, labels=models / "gone.pbtxt")
    assert kept.key(gone, RED) == ""
    kept.keep("", checks.ModelReport(name="m", kind="detection", serves=True), ())
    assert kept.find("") is None
    assert not cache.exists()


def test_the_oldest_results_go(models, cache, monkeypatch):
    """The folder does not grow for ever."""
    monkeypatch.setattr(kept_checks, "_MAX_FILES", 1)
    check(models, cache)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/modelserver/checks"),
        ({"XDG_CACHE_HOME": "c", "HOME": "/h"}, "/h/.cache/modelserver/checks"),
        ({"HOME": "/h"}, "/h/.cache/modelserver/checks"),
        ({"HOME": ""}, None),
    ],
)
def test_results_lie_where_caches_lie(environ, folder):
    """Relative names count for nothing, as XDG has it."""
    assert cache_folder(environ) == (Path(folder) if folder else None)


def test_the_command_says_that_a_result_is_kept(models, tmp_path):
    """And how to look again; exit codes and JSON are those of a check."""
    environ = {"ISOLATION": "inline", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def call(*arguments):
        return CliRunner().invoke(main, ["check", str(models), *arguments], env=environ)

    first, again, fresh = call(), call(), call("--fresh")
    assert first.exit_code == again.exit_code == fresh.exit_code == 1
    assert "kept from" not in first.output + fresh.output
    *same, last = again.output.splitlines()
    assert same == first.output.splitlines()
    assert last.startswith("kept from 20")
    assert last.endswith("2 of 2 models; --fresh looks again")
    assert '"kept": "20' in call("--json").output


@pytest.mark.real
def test_a_folder_that_was_checked_needs_no_tensorflow(models, tmp_path):
    """The whole command, in processes of its own: the second imports none."""
    code = (
        "import sys; from modelserver.tools.cli import main\n"
        "try: main()\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    (models / "broken.pb").unlink()
    outs = [
        subprocess.run(
            [sys.executable, "-c", code, "check", str(models)],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert outs[1][0] == outs[0][0]
    assert outs[1][0].startswith(f"1 of 1 models in {models} serve; ")
    assert "kept from" not in "".join(outs[0])
    assert outs[1][-2].startswith("kept from")
    assert outs[1][-1] == "False"
