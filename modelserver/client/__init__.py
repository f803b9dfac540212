"""Ask a server from Python: small, typed, without TensorFlow.

with Client("http://127.0.0.1:5000") as client:
    print(client.detect("ssdlite_mobilenet_v2_coco", "photo.jpg"))

errors        the errors of a call
results       detections and classifications
photos        from a path, bytes, a file, Pillow or NumPy to an image file's bytes
calls         requests and how to read their answers, shared by both clients
retries       whether to try again, and when
connections   httpx's options and errors
asynchronous  ``AsyncClient``
sync          the same for threads, made from asynchronous by script/unasync
pace          how many requests of a folder are on their way at a time
folders       ``Client``, which has folders of photos, too
writers       results as JSON lines, CSV or COCO, as they come
tables        results as a COCO document, CSV text or a table of pandas
"""

from modelserver.client.asynchronous import AsyncClient
from modelserver.client.errors import (
    BadAnswer,
    BadImage,
    ClientError,
    ConnectionBroken,
    NoSingleModel,
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
from modelserver.client.folders import Client, Outcome
from modelserver.client.results import (
    Class,
    Classification,
    Detection,
    Detections,
    ModelInfo,
)
from modelserver.client.retries import Policy
from modelserver.client.tables import to_coco, to_csv, to_pandas
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
    "NoSingleModel",
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
    "to_coco",
    "to_csv",
    "to_pandas",
    "writer",
]
