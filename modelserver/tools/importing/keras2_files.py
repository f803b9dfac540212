"""The ``.h5`` files and descriptions that Keras 2 wrote, built by Keras 2 itself.

Keras 3 reads some of them, but not models inside models, which Teachable Machine's are.
The package ``tf_keras`` is Keras 2 on today's TensorFlow; its safe mode does not hold
for descriptions, whose layers may bring Python code or read files. So every name in a
description is checked first, and only Keras's own building blocks pass.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import h5py
import tensorflow as tf

from modelserver.core.errors import ConversionError
from modelserver.core.extras import is_installed
from modelserver.tools.importing.source_models import conversion_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

# Their code, or the name of a function of TensorFlow's, stands in the file.
_BRING_CODE = {
    *("Lambda", "TFOpLambda", "SlicingOpLambda", "ClassMethod"),
    *("JaxLayer", "FlaxLayer", "TorchModuleWrapper"),
}
# Their vocabulary may be the name of a file, which they read.
# That of a TFSMLayer is a SavedModel's, whose graph it would run.
_READ_FILES = {
    *("StringLookup", "IntegerLookup", "TextVectorization", "IndexLookup"),
    "TFSMLayer",
}
_ALSO = {"Functional", "Model", "Sequential", "Policy", "DTypePolicy"}
# Keras 3's names of the values that go from layer to layer.
_ALSO_IN_KERAS_3 = {"__keras_tensor__", "__tuple__", "__numpy__"}
_MODULES = ("keras", "tf_keras", "builtins")
_MAX_PARAMETERS = 500_000_000
_MAX_NAMES = 100_000


def is_keras_2_file(path: Path) -> bool:
    """Return whether Keras 2, or an older Keras, wrote a file.

    False for a file that cannot be read: loading it tells the fault.
    """
    try:
        with h5py.File(path) as file:
            version = text_of(file.attrs.get("keras_version", b"2"))
            return "model_config" in file.attrs and int(version.split(".")[0]) <= 2  # noqa: PLR2004 - its name
    except (OSError, ValueError):
        return False


def import_keras_2(name: str) -> Any:
    """Import and return the package that is Keras 2.

    Args:
        name: of the file that needs it.

    Raises:
        ConversionError: it is not installed.
    """
    try:
        import tf_keras  # noqa: PLC0415 - seconds, and not needed otherwise
    except ImportError as err:
        # TensorFlow and Keras 2 are released together, with one version.
        own = f"tf-keras=={tf.__version__}"
        package = own if is_installed() else "-r requirements-keras2.txt"
        raise ConversionError(
            f"Keras 2 wrote {name}, and is needed to read it: "
            f"pip install --no-deps {package}"
        ) from err
    return tf_keras


def choose_keras(topology: Mapping[str, Any], name: str) -> Any:
    """Choose the Keras that wrote a description: 3 if it says so, else 2."""
    if str(topology.get("keras_version", "2")).startswith("3") or "module" in topology:
        return tf.keras
    return import_keras_2(name)


def load(path: Path) -> Any:
    """Load a model without running anything that the file brings.

    Raises:
        ConversionError: it is not made of Keras's building blocks alone, it is broken,
            or Keras 2 is not installed.
    """
    keras = import_keras_2(path.name)
    errors = (OSError, ValueError, KeyError, RecursionError)
    with conversion_errors(f"{path.name} is broken", errors), h5py.File(path) as file:
        described = json.loads(text_of(file.attrs["model_config"]))
    check(described, keras, path.name)
    measure(partial(_build, described, keras, path.name), keras, path.name)
    with keras_errors(f"Keras {keras.__version__} does not load {path.name}"):
        return keras.models.load_model(path, compile=False)


def keras_errors(sentence: str) -> AbstractContextManager[None]:
    """Raise Keras's errors as a ``ConversionError``; ``sentence`` goes before them.

    All errors, because Keras passes on those of its layers' constructors for a file
    that is broken or of another version. Nothing else may run inside.
    """
    return conversion_errors(sentence, Exception)


def build(described: dict[str, Any], keras: Any, name: str) -> Any:
    """Build a model from its description alone, with random weights.

    Args:
        described: ``class_name`` and ``config``, as ``model.to_json`` writes them.
        keras: the package, of version 2 or 3.
        name: of the file, for sentences.

    Raises:
        ConversionError: as :func:`load`.
    """
    # TensorFlow.js adds keys that Keras 3 would take for arguments.
    keys = ("class_name", "config", "module", "registered_name", "build_config")
    described = {key: described[key] for key in keys if key in described}
    check(described, keras, name)
    made = partial(_build, described, keras, name)
    measure(made, keras, name)
    return made()


def _build(described: dict[str, Any], keras: Any, name: str) -> Any:
    with keras_errors(f"Keras {keras.__version__} does not load what {name} describes"):
        return keras.models.model_from_json(json.dumps(described))


def check(described: object, keras: Any, name: str) -> None:
    """Refuse a description that names anything but Keras's own building blocks."""
    try:
        strange = next(_strange(described, _blocks(keras), [_MAX_NAMES]), None)
    except RecursionError as err:
        raise ConversionError(f"{name} is nested too deep") from err
    if strange:
        raise _foreign(f"{name} uses", strange)


def refuse_code(described: object, refusal: str) -> None:
    """Refuse a description of Keras 3 that names a layer of code or of other files.

    Keras 3 itself refuses all that is not its own; its operations are layers to it.

    Args:
        refusal: goes before the reason.
    """
    try:
        names = _class_names(described)
        strange = next((one for one in names if one in _BRING_CODE | _READ_FILES), None)
    except RecursionError as err:
        raise ConversionError(f"{refusal}: it is nested too deep") from err
    if strange:
        raise _foreign(f"{refusal}: it uses", strange)


def _class_names(described: object) -> Iterator[str]:
    """Yield the names of classes in a description."""
    parts: object = described
    if isinstance(described, dict):
        yield str(described.get("class_name"))
        parts = list(described.values())
    if isinstance(parts, list):
        for part in parts:
            yield from _class_names(part)


def _foreign(who: str, strange: str) -> ConversionError:
    return ConversionError(
        f"{who} {strange!r}, which is not one of Keras's own layers; "
        "code from a file is never run. Import its SavedModel"
    )


@contextmanager
def _shapes_only(keras: Any) -> Iterator[None]:
    """Let variables have shapes and no values yet."""
    if int(keras.__version__.partition(".")[0]) <= 2:  # noqa: PLR2004 - its name
        with tf.Graph().as_default():
            yield
        return
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Else the next model would give the variables of this one values.
        keras.utils.clear_session()


def measure(make: Callable[[], Any], keras: Any, name: str) -> None:
    """Refuse a model too large to be served, before any memory is asked for.

    Args:
        make: makes the model.
        keras: the package that it makes it with.
        name: of the file, for sentences.

    Raises:
        ConversionError: it is, or it is no model.
    """
    with _shapes_only(keras):
        model = make()
        # Some other object of Keras's, or a model that no input was ever given to.
        lacking = f"{name} describes no model, or one without its input's shape"
        with conversion_errors(lacking, (AttributeError, ValueError)):
            weights = model.weights
        count = sum(weight.shape.num_elements() or 0 for weight in weights)
    if count > _MAX_PARAMETERS:
        raise ConversionError(
            f"{name} describes a model of {count} weights, more than a graph can hold"
        )


def text_of(value: object) -> str:
    """Return a file's attribute, which may be of any type, as text.

    Raises:
        ValueError: it is no text.
    """
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise ValueError("an attribute that is no text")  # noqa: TRY004 - a file's
    return value


def _blocks(keras: Any) -> set[str]:
    """Return the names that a description may use."""
    homes = (keras.layers, keras.initializers, keras.regularizers, keras.constraints)
    names = {name for home in homes for name in vars(home) if name[0].isupper()}
    return names - _BRING_CODE - _READ_FILES | _ALSO | _ALSO_IN_KERAS_3


def _strange(described: object, blocks: set[str], left: list[int]) -> Iterator[str]:
    """Yield the names in a description that are not Keras's own.

    Args:
        described: the description, or a part of it.
        blocks: Keras's own names.
        left: how many objects may still be checked.
    """
    left[0] -= 1
    if left[0] < 0:
        yield "more than 100000 objects"
        return
    if isinstance(described, dict):
        name = described.get("class_name")
        if "class_name" in described and not (isinstance(name, str) and name in blocks):
            yield str(name)[:100]
        module = described.get("module")
        if module is not None and str(module).partition(".")[0] not in _MODULES:
            yield str(module)[:100]
        described = list(described.values())
    if isinstance(described, list):
        for part in described:
            if isinstance(part, (dict, list)):
                yield from _strange(part, blocks, left)
