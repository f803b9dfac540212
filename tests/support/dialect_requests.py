"""A request to each route of each dialect, for the tests that hold for all of them.

The app serves a detector ``m`` and a classifier ``c``; see ``write_models``.
"""

import base64
import json
from typing import NamedTuple

import msgspec

from modelserver.web.dialects.table import DIALECTS
from support import tiny_graphs
from support.app_client import EDGE, photo
from support.request_forms import form_of

RED = (200, 100, 50)
KINDS = ("detection", "classification")
FORM = f"multipart/form-data; boundary={EDGE}"


class Sample(NamedTuple):
    """A request that is answered with 200.

    Attributes:
        path: with its parameters.
        fields: of its form, if it has one.
        file: its photo's part, if it has one.
        content: body and content type, if that is no form.
        model: the model that evaluates it; empty if none does.
    """

    path: str
    fields: tuple[tuple[str, str], ...] = ()
    file: tuple[str, str, bytes] | None = None
    content: tuple[bytes, str] = (b"", "")
    model: str = ""

    def send(self, client, verb, *fields, **options):
        """Send it, with more fields."""
        body, kind = self.content
        parts = [*fields, *self.fields, *([self.file] if self.file else [])]
        if parts:
            body, kind = form_of(*parts), FORM
        options.setdefault("data", body)
        return client.open(self.path, method=verb, content_type=kind, **options)


def write_models(folder):
    """Write a detector ``m`` and a classifier ``c``."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text(
        'item { id: 21 name: "red" }\nitem { id: 2 name: "second" }\n'
    )
    tiny_graphs.write(folder / "c.pb", tiny_graphs.classifier())
    (folder / "c.labels.txt").write_text("red\ngreen\nblue\n")


def base64_request(content=None, **members):
    """Return the body and type of a request to DOODS."""
    data = base64.b64encode(photo(RED) if content is None else content).decode()
    body = {"detector_name": "m", "detect": {"*": 50}, "data": data, **members}
    return json.dumps(body).encode(), "application/json"


IMAGE = ("image", "image", photo(RED))
INFER = (
    msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": [1],
                    "datatype": "BYTES",
                    "data": [base64.b64encode(photo(RED)).decode()],
                }
            ]
        }
    ),
    "application/json",
)


def of_versions(verb, end, **facts):
    """Give the requests to a model's route, without its version and with it."""
    word = f"_{end}" if end else ""
    path = f"/{end}" if end else ""
    version = "_versions_version"
    return {
        f"{verb}_v2_models_model{word}": Sample(f"/v2/models/m{path}", **facts),
        f"{verb}_v2_models_model{version}{word}": Sample(
            f"/v2/models/m/versions/1{path}", **facts
        ),
    }


ROW = {"b64": base64.b64encode(photo(RED)).decode()}


def of_forms():
    """Give the requests to each of TensorFlow Serving's routes, in their three forms."""
    found = {}
    for root, word in (
        ("", ""),
        ("/versions/1", "_versions_version"),
        ("/labels/stable", "_labels_label"),
    ):
        name = f"v1_models_model{word}"
        found[f"get_{name}"] = Sample(f"/v1/models/m{root}")
        found[f"get_{name}_metadata"] = Sample(f"/v1/models/m{root}/metadata")
        for end, model, body in (
            ("predict", "m", {"instances": [ROW]}),
            ("classify", "c", {"examples": [{"image": ROW}]}),
        ):
            found[f"post_{name}_{end}"] = Sample(
                f"/v1/models/{model}{root}:{end}",
                content=(json.dumps(body).encode(), "application/json"),
                model=model,
            )
    return found


SAMPLES = {
    "v2": {
        "get_v2": Sample("/v2"),
        "get_v2_health_live": Sample("/v2/health/live"),
        "get_v2_health_ready": Sample("/v2/health/ready"),
        "get_v2_models_stats": Sample("/v2/models/stats"),
        **of_versions("get", ""),
        **of_versions("get", "ready"),
        **of_versions("get", "config"),
        **of_versions("get", "stats"),
        **of_versions("post", "infer", content=INFER, model="m"),
        "post_v2_repository_models_model_load": Sample("/v2/repository/models/m/load"),
        "post_v2_repository_models_model_unload": Sample(
            "/v2/repository/models/m/unload"
        ),
        "post_v2_repository_index": Sample(
            "/v2/repository/index", content=(b"{}", "application/json")
        ),
    },
    "deepstack": {
        "post_v1_vision_detection": Sample(
            "/v1/vision/detection", file=IMAGE, model="m"
        ),
        "post_v1_vision_custom_model": Sample(
            "/v1/vision/custom/m", file=IMAGE, model="m"
        ),
        "post_v1_vision_scene": Sample("/v1/vision/scene", file=IMAGE, model="c"),
        "post_v1_vision_custom_list": Sample("/v1/vision/custom/list"),
        "post_v1_vision_listmodels": Sample("/v1/vision/listmodels"),
        "get_v1_status_updateavailable": Sample("/v1/status/updateavailable"),
        "get_v1_server_status_updateavailable": Sample(
            "/v1/server/status/updateavailable"
        ),
        "get_v1_status_ping": Sample("/v1/status/ping"),
        "get_v1_server_status_ping": Sample("/v1/server/status/ping"),
    },
    "tfserving": of_forms(),
    "doods": {
        "get_detectors": Sample("/detectors"),
        "post_detect": Sample("/detect", content=base64_request(), model="m"),
        "post_image": Sample("/image", content=base64_request(), model="m"),
    },
}
"""By the dialect's name and the route's endpoint."""

ROUTES = [
    (dialect, route, SAMPLES[dialect.name][route.endpoint])
    for dialect in DIALECTS.values()
    for route in dialect.routes
    if route.endpoint in SAMPLES.get(dialect.name, {})
]
"""Each dialect and route with its request."""

NAMES = [f"{dialect.name} {route.verb} {route.path}" for dialect, route, _ in ROUTES]
