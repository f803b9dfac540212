"""What to do about each problem, for the page that explains it.

docs/troubleshoot.md has the same paragraphs, with links.
"""

from typing import NamedTuple


class Remedy(NamedTuple):
    """What a problem means, and what either side can do about it."""

    meaning: str
    client: str
    operator: str


REMEDIES = {
    "missing-field": Remedy(
        "The form has no `file`, or no `modelname` while several models are there.",
        "send both; in curl `-F file=@photo.jpg`, with the `@`.",
        "nothing.",
    ),
    "bad-request": Remedy(
        "The body is no form, is cut off, gives a value twice, or one that "
        "is not allowed; or the photo is empty or text.",
        "read `detail`; let the library make the form's boundary.",
        "if all clients get it, a proxy changes bodies.",
    ),
    "unknown-label": Remedy(
        "`labels` names one that none of the asked models has; the nearest "
        "are in `detail`.",
        "take one from `GET /models/<name>/labels`.",
        "see that the label map is the model's.",
    ),
    "untrusted-host": Remedy(
        "The `Host` header is missing or a name that the server does not answer to.",
        "use the server's name, or its IP address.",
        "put the name into `TRUSTED_HOSTS`; behind a proxy, the one that it passes on.",
    ),
    "unauthorized": Remedy(
        "The token is missing or wrong.",
        "send `Authorization: Bearer TOKEN` or `X-API-Key: TOKEN`.",
        "it is `API_TOKEN` of the running server; a new one needs a "
        "restart. A proxy may drop the header.",
    ),
    "loopback-only": Remedy(
        "The request came from another machine, directly or by a proxy, and"
        " neither `API_TOKEN` nor `ALLOW_ANONYMOUS` is set.",
        "nothing.",
        "set `API_TOKEN` (operate.md).",
    ),
    "cross-site": Remedy(
        "A page of another site made a browser send it.",
        "call from the server's own page, or from a program.",
        "list the site in `CORS_ORIGINS` if it may. A proxy must leave the "
        "port in `Host`.",
    ),
    "model-not-found": Remedy(
        "This app has no model of that name; `detail` names those it has.",
        "compare letter by letter.",
        "a model is not in the list.",
    ),
    "ambiguous-model": Remedy(
        "A server of both tasks has a detector and a classifier of that name.",
        "add `?kind=detection` or `?kind=classification`.",
        "nothing.",
    ),
    "body-too-slow": Remedy(
        "The body stopped for 10 s, or came too slowly for a minute.",
        "send a smaller photo, or over a better network.",
        "a proxy that buffers requests keeps this away.",
    ),
    "upload-too-large": Remedy(
        "The body is over `MAX_UPLOAD_MB`, or a field or the number of "
        "parts over its limit.",
        "send smaller files, or fewer at once.",
        "raise `MAX_UPLOAD_MB` and nginx's `client_max_body_size` together.",
    ),
    "image-too-large": Remedy(
        "The image has too many pixels, however small its file is.",
        "scale it down; models look at far fewer.",
        "`MAX_IMAGE_PIXELS` and `MAX_HEADER_PIXELS`, if there is memory (images.md).",
    ),
    "not-an-image": Remedy(
        "The content is of no format that is read.",
        "convert it to JPEG or PNG; look whether it is a web page.",
        "nothing.",
    ),
    "unsupported-encoding": Remedy(
        "The body has a `Content-Encoding`; nothing is unpacked.",
        "send the form as it is.",
        "see whether a proxy compresses requests.",
    ),
    "undecodable-image": Remedy(
        "It is an image, but cut off, damaged, or takes too long to read.",
        "open and save it again.",
        "nothing.",
    ),
    "model-not-ready": Remedy(
        "The model is loading, restarting, draining or loaded on demand; or"
        " all are, as the engine's process died.",
        "wait for `Retry-After`, send it again.",
        "if it does not end, look at its state and `restarts` in `/models`,"
        " and in the log for the engine's end.",
    ),
    "model-failed": Remedy(
        "The model could not be loaded, or died too often.",
        "do not hurry: it needs somebody.",
        "a model is FAILED.",
    ),
    "runner-died": Remedy(
        "The model's process, or the engine's, died while it had this "
        "photo; it comes back by itself.",
        "send it once more, not again and again: the photo may be the cause.",
        "the log has the signal. SIGKILL is mostly the kernel's want of "
        "memory. The same photo every time: the graph crashes on it.",
    ),
    "overloaded": Remedy(
        "There is no place; `detail` says of which kind. No work was done.",
        "wait for `Retry-After`, send it again.",
        "short bursts are normal; if it does not end, the machine is too "
        "small: tune.md.",
    ),
    "out-of-memory": Remedy(
        "The model's device had too little memory for this image alone.",
        "send a smaller image.",
        "fewer models a GPU, fewer `SLOTS`, a smaller `MAX_BATCH`.",
    ),
    "storage-unavailable": Remedy(
        "The upload folder is gone or cannot be written.",
        "wait for `Retry-After`.",
        "make the folder, look at its rights and whether its disk is "
        "mounted read-only. No restart is needed.",
    ),
    "storage-full": Remedy(
        "The upload folder's disk is full.",
        "wait for `Retry-After`.",
        "make room; none of the files is the server's own. No restart is needed.",
    ),
    "deadline-passed": Remedy(
        "No answer came within the time allowed, by the client or by "
        "`REQUEST_TIMEOUT_S`.",
        "allow more time, or send less at once.",
        "is the model slow, or its queue long? `queue` and `run` in the metrics tell.",
    ),
    "client-gone": Remedy(
        "The client closed its connection while its image waited, so the "
        "image was not run. Nobody reads this answer but log and metrics.",
        "wait longer, or send `X-Request-Timeout-Ms`.",
        "many of them mean that clients are less patient than `MAX_QUEUE_WAIT_S`.",
    ),
    "bad-model-output": Remedy(
        "The model's arrays do not fit together, or a score that would be "
        "answered is a NaN or more than 0.001 outside 0..1.",
        "nothing.",
        "the wrong outputs are used (logits, percent), or the graph is "
        "broken: `/models/<name>` has a finding (`scores-outside`, `outputs-odd`) "
        "with the remedy; else `inspect` it, and name the outputs in the sidecar.",
    ),
    "run-failed": Remedy(
        "TensorFlow refused to run the graph on this image.",
        "try another photo.",
        "the log has TensorFlow's words. If it is every photo, the "
        "sidecar's `size` or `channels` may be wrong.",
    ),
    "internal-error": Remedy(
        "A bug of the server's.",
        "keep the `X-Request-Id`.",
        "the log has the traceback under that id: report it.",
    ),
}
"""By the last part of the problem's type."""
