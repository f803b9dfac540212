"""Reads the ``.h5`` files of Keras 2, such as Teachable Machine's, by Keras 2 itself.

Keras 3 reads some of them, but not models inside models, which Teachable Machine's are.
The package ``tf_keras`` is Keras 2 on today's TensorFlow; its safe mode does not hold
for ``.h5`` files, whose layers may bring Python code. So of a file's description every
name is looked at first, and only Keras's own building blocks pass.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py

from modelserver.conversion.opened import shortened
from modelserver.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Their code, or the name of a function of TensorFlow's, stands in the file.
_BRING_CODE = {"Lambda", "TFOpLambda", "SlicingOpLambda", "ClassMethod"}
_ALSO = {"Functional", "Model", "Sequential", "Policy"}
_MODULES = ("keras", "tf_keras")
_INSTALL = "pip install --no-deps -r requirements-keras2.txt"


def is_one(path: Path) -> bool:
    """Tell whether Keras 2 wrote a file, or an older Keras.

    A file that cannot be read is none: Keras says what is wrong with it.
    """
    try:
        with h5py.File(path) as file:
            version = _text(file.attrs.get("keras_version", b"2"))
            return "model_config" in file.attrs and int(version.split(".")[0]) <= 2  # noqa: PLR2004 - its name
    except (OSError, ValueError):
        return False


def load(path: Path) -> Any:
    """Load a model without running anything that the file brings.

    Raises:
        ConversionError: it is not made of Keras's building blocks alone, it is broken,
            or Keras 2 is not installed.
    """
    try:
        import tf_keras  # noqa: PLC0415 - seconds, and not needed otherwise
    except ImportError as err:
        raise ConversionError(
            f"Keras 2 wrote {path.name}, and is needed to read it: {_INSTALL}"
        ) from err
    try:
        with h5py.File(path) as file:
            described = json.loads(_text(file.attrs["model_config"]))
    except (OSError, ValueError) as err:
        raise ConversionError(f"{path.name} is broken: {shortened(err)}") from err
    if strange := next(_strange(described, _blocks(tf_keras)), None):
        raise ConversionError(
            f"{path.name} uses {strange!r}, which is not one of Keras's own layers; "
            "code from a file is never run. Import its SavedModel"
        )
    try:
        return tf_keras.models.load_model(path, compile=False)
    except Exception as err:
        # Broad, because Keras raises whatever its layers' constructors do for a file
        # that is broken. Nothing else runs in here.
        raise ConversionError(
            f"Keras {tf_keras.__version__} does not load {path.name}: {shortened(err)}"
        ) from err


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def _blocks(keras: Any) -> set[str]:
    """Return the names that a description may use."""
    homes = (keras.layers, keras.initializers, keras.regularizers, keras.constraints)
    names = {name for home in homes for name in vars(home) if name[0].isupper()}
    return names - _BRING_CODE | _ALSO


def _strange(described: object, blocks: set[str]) -> Iterator[str]:
    """Give the names in a description that are not Keras's own."""
    if isinstance(described, dict):
        if "class_name" in described and described["class_name"] not in blocks:
            yield str(described["class_name"])
        module = described.get("module")
        if module is not None and str(module).partition(".")[0] not in _MODULES:
            yield str(module)
        described = list(described.values())
    if isinstance(described, list):
        for one in described:
            yield from _strange(one, blocks)
