"""The formats that can be imported: how a source is recognised, unpacked and opened."""

from __future__ import annotations

import lzma
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from modelserver.core.errors import ConversionError
from modelserver.tools.importing import (
    graph_models,
    saved_models,
    tfjs,
)
from modelserver.tools.importing.model_files import FORMATS, refuse_missing
from modelserver.tools.importing.source_models import refuse_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from modelserver.tools.importing.source_models import SourceModel
    from modelserver.tools.importing.tfjs import Described

KERAS_ENDINGS = (".keras", ".h5", ".hdf5")
# A checkpoint of TensorFlow's, and what belongs to one.
_CHECKPOINTS = (".ckpt", ".meta", ".index", ".data-00000-of-00001")
_NOT_THESE: dict[str, str] = {
    ".tflite": "a TensorFlow Lite model; import the SavedModel or Keras file that it "
    "was made of",
    ".pb": "a graph already; if it is frozen, put it into the model folder as "
    "NAME.frozen.pb (a detector) or NAME.pb (a classifier)",
    ".onnx": "an ONNX model; export it as a SavedModel (onnx2tf)",
    ".pt": "a PyTorch model; export it as a SavedModel",
    ".pth": "a PyTorch model; export it as a SavedModel",
    ".safetensors": "weights alone, of a PyTorch model mostly; export the model as a "
    "SavedModel",
    ".mlmodel": "a Core ML model; import the model that it was made of",
    ".caffemodel": "a Caffe model; convert it to TensorFlow first",
    ".gz": "an archive; unpack it and import what is in it",
    ".tar": "an archive; unpack it and import what is in it",
    ".7z": "an archive; unpack it and import what is in it",
    ".rar": "an archive; unpack it and import what is in it",
    ".bin": "weights alone; import the .json file beside it",
    **dict.fromkeys(
        _CHECKPOINTS,
        "a part of a checkpoint, which holds variables and no graph to serve; export "
        "the model as a SavedModel",
    ),
}
_POINTER_BYTES = 200
_MAX_MEMBERS = 2000
_MAX_UNPACKED_BYTES = 2000 << 20
_MAX_DEPTH = 3


@contextmanager
def open_source(
    source: Path, signature: str | None = None
) -> Iterator[tuple[SourceModel, Path]]:
    """Open a model of any of the formats; closed with the context.

    Yields:
        The model, and the file or folder of it, which may lie inside ``source``.

    Args:
        source: a file or folder of one of the formats.
        signature: of a SavedModel.

    Raises:
        ConversionError: it is something else, or not whole.
    """
    refuse_missing(source)
    with tempfile.TemporaryDirectory(prefix="modelserver-import-") as scratch:
        if source.is_file() and source.suffix.lower() == ".zip":
            # Two folders deep, because labels are looked for next to a model and above
            # it: not in the folder of everybody's temporary files.
            folder = Path(scratch) / "archive" / "unpacked"
            folder.mkdir(parents=True)
            source = _unpack(source, folder)
        found = _find(source)
        with _opener(found, signature) as original:
            yield original, found


def _find(source: Path) -> Path:
    """Find the one model in a folder, or in a folder of it."""
    if source.is_file() and source.name in {"saved_model.pb", "saved_model.pbtxt"}:
        return source.parent
    if source.is_file():
        with source.open("rb") as file:
            refuse_pointer(source.name, file.read(_POINTER_BYTES))
        return source
    found = list(_candidates(source, _MAX_DEPTH))
    if len(found) > 1:
        two = " and ".join(str(path.relative_to(source)) for path in found[:2])
        raise ConversionError(f"{source.name} holds several models: {two}; name one")
    if not found:
        raise ConversionError(
            f"{source.name} holds no model that can be imported; {FORMATS}"
        )
    return found[0]


def _candidates(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the models in a folder; those below it only if it holds none itself."""
    if saved_models.is_saved_model(folder):
        yield folder
        return
    described = tfjs.find_description(folder)
    if described is not None and not tfjs.is_description(described):
        described = None  # Keras's own model.json
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in inside if path.is_file()]
    keras = [path for path in files if path.suffix.lower() in KERAS_ENDINGS]
    if described is not None:
        yield described
        return
    yield from keras
    if keras or depth == 0:
        return
    for path in inside:
        if path.is_dir() and not path.is_symlink():
            yield from _candidates(path, depth - 1)


def _opener(source: Path, signature: str | None) -> AbstractContextManager[SourceModel]:
    """Return the context that opens a model."""
    if source.is_dir():
        return saved_models.open_saved_model(source, signature)
    ending = source.suffix.lower()
    if ending == ".json":
        return _opener_of_json(source)
    if ending in KERAS_ENDINGS:
        # Keras takes seconds to import, which the other formats need not wait for.
        from modelserver.tools.importing import keras_files  # noqa: PLC0415

        return keras_files.open_keras_file(source)
    if ending in {".pbtxt", ".prototxt"} or graph_models.is_text_graph(source):
        return graph_models.open_text_graph(source)
    if ending == ".pb" and (source.parent / "weights_manifest.json").is_file():
        raise ConversionError(
            f"{source.name} is a TensorFlow.js model of its first format (before 1.0); "
            "import the SavedModel or Keras file that it was made of"
        )
    instead = _NOT_THESE.get(ending, "no model that can be imported")
    raise ConversionError(f"{source.name} is {instead}; {FORMATS}")


def _opener_of_json(source: Path) -> AbstractContextManager[SourceModel]:
    """Return the context for a description, of TensorFlow.js or of Keras's layers."""
    if tfjs.find_description(source) is None:
        from modelserver.tools.importing import keras_files  # noqa: PLC0415

        return keras_files.open_keras_parts(source)
    return _opener_of_tfjs(tfjs.read_description(source))


def _opener_of_tfjs(model: Described) -> AbstractContextManager[SourceModel]:
    if model.is_layers_model:
        # Keras again.
        from modelserver.tools.importing import layers_models  # noqa: PLC0415

        return layers_models.open_layers_model(model)
    return graph_models.open_tfjs_graph(model)


def _unpack(archive: Path, scratch: Path) -> Path:
    """Unpack an archive, as Teachable Machine hands them out, within limits.

    Raises:
        ConversionError: it is damaged, too large, or would write elsewhere.
    """
    left = _MAX_UNPACKED_BYTES
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            if len(members) > _MAX_MEMBERS:
                raise ConversionError(f"{archive.name} holds too many files")
            for member in members:
                target = scratch / _within(archive, member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as packed, target.open("wb") as plain:
                    # The sizes in the archive need not be true.
                    while chunk := packed.read(1 << 20):
                        left -= len(chunk)
                        if left < 0:
                            raise ConversionError(
                                f"{archive.name} unpacks to more than 2000 MiB"
                            )
                        plain.write(chunk)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as err:
        raise ConversionError(f"{archive.name} cannot be unpacked: {err}") from err
    except (ValueError, lzma.LZMAError, zlib.error) as err:
        raise ConversionError(f"{archive.name} is damaged: {err}") from err
    except OSError as err:
        # Two files in one place, a name too long, a full disk; bzip2 says so, too.
        why = err.strerror or err
        raise ConversionError(f"{archive.name} cannot be unpacked: {why}") from err
    return scratch


def _within(archive: Path, name: str) -> PurePosixPath:
    """Return a member's path, which must stay inside the folder it is unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
        raise ConversionError(
            f"{archive.name} holds a file that lies elsewhere: {name}"
        )
    return path
