"""Graphs of other tasks, asked with tensors over gRPC, as over REST."""

import grpc
import numpy as np

from modelserver.web.grpc_door import _open_inference_pb2 as messages
from support import apps, tiny_graphs
from support.dialect_requests import KINDS
from support.graph_runs import run
from support.grpc_calls import infer_request, serving

IMAGE = np.random.default_rng(7).normal(size=(2, 16, 16, 3)).astype("<f4")
HEADS = ("heatmap", "offsets")


def test_a_pose_network_is_asked_as_over_rest(folder, uploads):
    """Metadata before it is loaded, not ready until then, and TensorFlow's outputs."""
    data = tiny_graphs.pose()
    tiny_graphs.write(folder / "pose.frozen.pb", data)
    asked = infer_request(IMAGE, model="pose", datatype="FP32", name="image")
    named = messages.ModelReadyRequest(name="pose")
    with (
        apps.loaded(KINDS, folder, uploads) as app,
        serving(app.extensions["modelserver"]) as caller,
    ):
        told = caller.call("ModelMetadata", messages.ModelMetadataRequest(name="pose"))
        assert [one.name for one in told.outputs] == list(HEADS)
        assert not caller.call("ModelReady", named).ready
        code, _, _ = caller.refused("ModelInfer", asked)
        assert code is grpc.StatusCode.UNAVAILABLE
        load = messages.RepositoryModelLoadRequest(model_name="pose")
        caller.call("RepositoryModelLoad", load)
        assert caller.call("ModelReady", named).ready
        answer = caller.call("ModelInfer", asked)
    wanted = run(data, HEADS, {"image": IMAGE})
    for content, array in zip(answer.raw_output_contents, wanted, strict=True):
        found = np.frombuffer(content, "<f4").reshape(array.shape)
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-5)
