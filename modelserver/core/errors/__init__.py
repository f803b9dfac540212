"""Every error that this package raises on purpose.

The tree:

    ModelServerError
    ├── StartError            the server does not start; one sentence on stderr
    │   └── SettingError
    ├── InstallError          a default model is not installed; one sentence on stderr
    ├── ConversionError       a model of another format cannot be made a frozen graph
    ├── ModelError            one model is FAILED with this reason, the others serve
    │   ├── LabelMapError
    │   ├── SidecarError
    │   ├── GraphError
    │   ├── DeviceFailed      the card, not the files: tried again
    │   └── ModelCrashed
    └── RequestError          answers one request, as application/problem+json
        ├── MissingField 400 · BadRequest 400 · UntrustedHost 400
        ├── UnknownLabel 400
        ├── Unauthorized 401 · LoopbackOnly 403 · CrossSite 403
        ├── ModelNotFound 404 · BodyTooSlow 408 · AmbiguousModel 409
        ├── UploadTooLarge 413 · ImageTooLarge 413
        ├── NotAnImage 415 · UnsupportedEncoding 415
        ├── UndecodableImage 422
        ├── ModelNotReady 503 · ModelFailed 503 · RunnerDied 503 · Overloaded 503
        ├── OutOfMemory 503 · StorageUnavailable 503 · StorageFull 507
        ├── DeadlinePassed 504 · ClientGone 503
        └── BadModelOutput 500 · RunFailed 500 · InternalError 500

A constructor takes the facts and builds the sentence. A request error's sentence goes
to the client, so it never holds a path, a traceback or TensorFlow's own words.
"""

from modelserver.core.errors.base import (
    ConversionError,
    InstallError,
    ModelServerError,
    SettingError,
    StartError,
)
from modelserver.core.errors.models import (
    DeviceFailed,
    GraphError,
    LabelMapError,
    ModelCrashed,
    ModelError,
    SidecarError,
)
from modelserver.core.errors.requests import (
    AmbiguousModel,
    BadModelOutput,
    BadRequest,
    BodyTooSlow,
    ClientGone,
    CrossSite,
    DeadlinePassed,
    ImageTooLarge,
    InternalError,
    LoopbackOnly,
    MissingField,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
    NotAnImage,
    OutOfMemory,
    Overloaded,
    RequestError,
    RunFailed,
    RunnerDied,
    StorageFull,
    StorageUnavailable,
    Unauthorized,
    UndecodableImage,
    UnknownLabel,
    UnsupportedEncoding,
    UntrustedHost,
    UploadTooLarge,
)

__all__ = [
    "AmbiguousModel",
    "BadModelOutput",
    "BadRequest",
    "BodyTooSlow",
    "ClientGone",
    "ConversionError",
    "CrossSite",
    "DeadlinePassed",
    "DeviceFailed",
    "GraphError",
    "ImageTooLarge",
    "InstallError",
    "InternalError",
    "LabelMapError",
    "LoopbackOnly",
    "MissingField",
    "ModelCrashed",
    "ModelError",
    "ModelFailed",
    "ModelNotFound",
    "ModelNotReady",
    "ModelServerError",
    "NotAnImage",
    "OutOfMemory",
    "Overloaded",
    "RequestError",
    "RunFailed",
    "RunnerDied",
    "SettingError",
    "SidecarError",
    "StartError",
    "StorageFull",
    "StorageUnavailable",
    "Unauthorized",
    "UndecodableImage",
    "UnknownLabel",
    "UnsupportedEncoding",
    "UntrustedHost",
    "UploadTooLarge",
]
