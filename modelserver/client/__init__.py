"""Ask a server from Python: small, typed, without TensorFlow.

with Client("http://127.0.0.1:5000") as client:
    print(client.detect("ssdlite_mobilenet_v2_coco", "photo.jpg"))

errors        what a call can fail with
results       what a model found
photos        from a path, bytes, a file, Pillow or NumPy to an image file's bytes
calls         requests and what their answers mean, shared by both clients
retrying      whether to try again, and when
connecting    httpx's options and errors
sync          ``Client``
asynchronous  ``AsyncClient``
pacing        how many requests of a folder are on their way at a time
folders       a folder of photos
writing       results as JSON lines, CSV or COCO
"""

from modelserver.client.asynchronous import AsyncClient
from modelserver.client.errors import (
    BadAnswer,
    BadImage,
    ClientError,
    ConnectionBroken,
    NotFound,
    Problem,
    Refused,
    Rejected,
    ServerFault,
    TimedOut,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from modelserver.client.folders import Outcome
from modelserver.client.results import (
    Class,
    Classification,
    Detection,
    Detections,
    ModelInfo,
)
from modelserver.client.retries import Policy
from modelserver.client.sync import Client
from modelserver.client.writers import Writer, writer

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "BadImage",
    "Class",
    "Classification",
    "Client",
    "ClientError",
    "ConnectionBroken",
    "Detection",
    "Detections",
    "ModelInfo",
    "NotFound",
    "Outcome",
    "Policy",
    "Problem",
    "Refused",
    "Rejected",
    "ServerFault",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "Writer",
    "writer",
]
