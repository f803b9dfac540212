"""Ask a server by the clients of Triton and KServe.

``v2_clients.py WHOSE URL PLACE PHOTO``, where ``WHOSE`` is ``triton`` or ``kserve``, which
cannot both be imported, and ``PLACE`` is host and port for gRPC.

Runs where those are installed, and this project is not. The server has the detectors
``m`` and ``fast``.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path

import grpc
import numpy as np
from httpx import HTTPStatusError


def refused(call, status, words):
    """Check that the client tells of an error as the server worded it."""
    from tritonclient.utils import InferenceServerException

    error = None
    try:
        call()
    except InferenceServerException as raised:
        error = raised
    assert error is not None
    assert error.status() == str(status), (error.status(), error.message())
    assert words in error.message(), error.message()


def in_bytes(data):
    """An input that is one photo."""
    import tritonclient.http as triton

    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([data], dtype=object))
    return image


def ask_as_triton(url, data):
    """Everything that Triton's client can do and this server has."""
    import tritonclient.http as triton

    client = triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.get_server_metadata()["name"] == "modelserver"
    told = client.get_model_metadata("m", "1")
    assert told["inputs"][0]["name"] == "image_tensor"
    assert client.get_model_config("m")["input"][0]["data_type"] == "TYPE_UINT8"
    names = {one["name"] for one in client.get_model_repository_index()}
    assert names == {"m", "fast"}

    scores = triton.InferRequestedOutput("scores", binary_data=False, class_count=1)
    for packed in (None, "gzip", "deflate"):
        answer = client.infer(
            "m",
            [in_bytes(data)],
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
        )
        labels = answer.as_numpy("labels")
    answer = client.infer("m", [in_bytes(data)], outputs=[scores])
    assert answer.as_numpy("scores")[0, 0].endswith(":21:red")

    pixels = np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), np.uint8)
    found = []
    for binary in (True, False):
        tensor = triton.InferInput("image_tensor", [1, 300, 300, 3], "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
        wanted = triton.InferRequestedOutput("detection_scores", binary_data=binary)
        answer = client.infer("fast", [tensor], outputs=[wanted], request_id="7")
        assert answer.get_response()["id"] == "7"
        found.append(answer.as_numpy("detection_scores"))
    np.testing.assert_allclose(*found, atol=1e-6)
    at_once = [client.async_infer("fast", [tensor]) for _ in range(8)]
    for one in at_once:
        again = one.get_result().as_numpy("detection_scores")
        np.testing.assert_allclose(again, found[0], atol=1e-5)

    (counted,) = client.get_inference_statistics("fast")["model_stats"]
    assert counted["inference_count"] == 10
    assert len(client.get_inference_statistics()["model_stats"]) == 2
    client.unload_model("fast")
    assert not client.is_model_ready("fast")
    client.load_model("fast")
    assert client.is_model_ready("fast")

    wrong = triton.InferInput("image_tensor", [1], "FP64")
    wrong.set_data_from_numpy(np.zeros(1))
    refused(lambda: client.infer("m", [wrong]), 400, "takes uint8")
    refused(lambda: client.infer("nope", [tensor]), 404, "no model 'nope'")
    refused(lambda: client.get_model_metadata("m", "2"), 404, "no version")
    return labels


def ask_as_triton_by_grpc(place, data):
    """The same by Triton's client for gRPC, several at once by its callbacks."""
    import tritonclient.grpc as over_grpc

    client = over_grpc.InferenceServerClient(place)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m", "1")
    assert client.get_server_metadata(as_json=True)["name"] == "modelserver"
    assert client.get_model_metadata("m").inputs[0].name == "image_tensor"
    told = client.get_model_config("m", as_json=True)["config"]
    assert told["input"][0]["data_type"] == "TYPE_UINT8"
    names = {one.name for one in client.get_model_repository_index().models}
    assert names == {"m", "fast"}

    image = over_grpc.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([data], dtype=object))
    for packed in (None, "gzip", "deflate"):
        answer = client.infer("m", [image], compression_algorithm=packed)
        labels = answer.as_numpy("labels")
    scores = over_grpc.InferRequestedOutput("scores", class_count=1)
    answer = client.infer("m", [image], outputs=[scores], parameters={"top_k": 1})
    assert answer.as_numpy("scores")[0, 0].endswith(b":21:red")

    pixels = np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), np.uint8)
    tensor = over_grpc.InferInput("image_tensor", [1, 300, 300, 3], "UINT8")
    tensor.set_data_from_numpy(pixels)
    answer = client.infer("fast", [tensor], request_id="7", client_timeout=60)
    assert answer.get_response().id == "7"
    first = answer.as_numpy("detection_scores")
    answers = queue.Queue()
    for _ in range(8):
        client.async_infer(
            "fast", [tensor], lambda result, error: answers.put((result, error))
        )
    for _ in range(8):
        result, error = answers.get(timeout=60)
        assert error is None, error
        again = result.as_numpy("detection_scores")
        np.testing.assert_allclose(again, first, atol=1e-5)

    (counted,) = client.get_inference_statistics("fast").model_stats
    assert counted.inference_count >= 9
    client.unload_model("fast")
    assert not client.is_model_ready("fast")
    client.load_model("fast")
    assert client.is_model_ready("fast")
    wrong = over_grpc.InferInput("image_tensor", [1], "FP64")
    wrong.set_data_from_numpy(np.zeros(1))
    code = "StatusCode."
    refused(
        lambda: client.infer("m", [wrong]), f"{code}INVALID_ARGUMENT", "takes uint8"
    )
    refused(
        lambda: client.infer("nope", [tensor]), f"{code}NOT_FOUND", "no model 'nope'"
    )
    client.close()
    return labels


async def ask_as_kserve_by_grpc(place, data):
    """KServe's client has values in fields by their type, too."""
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    client = InferenceGRPCClient(place)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("m")
    pixels = np.zeros((1, 6, 8, 3), np.uint8)
    asked = []
    for binary in (True, False):
        tensor = InferInput("image_tensor", [1, 6, 8, 3], "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
        asked.append((tensor, "detection_scores"))
    photo = InferInput("image", [1], "BYTES")
    photo.set_data_from_numpy(np.array([data], dtype=object), binary_data=True)
    for given, output in (*asked, (photo, "boxes")):
        answer = await client.infer(InferRequest("m", [given]))
        assert answer.get_output_by_name(output).as_numpy().size
    error = None
    try:
        await client.infer(InferRequest("no", [tensor]))
    except grpc.RpcError as raised:
        error = raised
    assert error is not None
    assert error.code() is grpc.StatusCode.NOT_FOUND, error
    await client.close()


async def ask_as_kserve(url, data):
    """KServe's client has images in the binary extension, too."""
    from kserve import InferenceRESTClient, InferInput, InferRequest
    from kserve.inference_client import RESTConfig

    client = InferenceRESTClient(RESTConfig(protocol="v2", verbose=False))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "m")
    pixels = np.zeros((1, 6, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = 200, 100
    tensor = InferInput("image_tensor", [1, 6, 8, 3], "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=False)
    answer = await client.infer(
        url, InferRequest(model_name="m", infer_inputs=[tensor]), model_name="m"
    )
    assert "detection_scores" in {one.name for one in answer.outputs}
    photo = InferInput("image", [1], "BYTES")
    photo.set_data_from_numpy(np.array([data], dtype=object), binary_data=True)
    answer = await client.infer(
        url, InferRequest(model_name="m", infer_inputs=[photo]), model_name="m"
    )
    assert "boxes" in {one.name for one in answer.outputs}
    error = None
    try:
        await client.infer(
            url, InferRequest(model_name="no", infer_inputs=[tensor]), model_name="no"
        )
    except HTTPStatusError as raised:
        error = raised
    assert "no model" in str(error), error


def main(whose, url, place, path):
    """Ask, and print the labels that Triton's clients found."""
    data = Path(path).read_bytes()
    if whose == "kserve":
        asyncio.run(ask_as_kserve(url, data))
        asyncio.run(ask_as_kserve_by_grpc(place, data))
        return
    found = (ask_as_triton(url, data), ask_as_triton_by_grpc(place, data))
    labels = [[[one.decode() for one in row] for row in rows] for rows in found]
    sys.stdout.write(json.dumps(labels))


if __name__ == "__main__":
    main(*sys.argv[1:])
