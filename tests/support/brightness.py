"""A third task from outside the package, how bright a photo is; ``-m`` serves it."""

from msgspec import UNSET, Struct, UnsetType

from modelserver.core.contract import Endpoint, Problem
from modelserver.tasks import Task, register


class Brightness(Struct):
    """How bright a photo is, 0..1."""

    brightness: float


class Result(Struct):
    """What came of one file and one model."""

    file: str
    model: str
    brightness: float | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class Results(Struct):
    """What came of each file with each model."""

    results: list[Result]


class BrightnessTask(Task[float]):
    """The mean of all bytes of the photo that the graph is fed."""

    kind = "brightness"
    endpoint = Endpoint("/brightness", 5433)
    summary = "Tell how bright photos are"
    graph_ending, labels_ending = ".bright.pb", ".bright.pbtxt"
    outputs = {"value": "brightness"}  # noqa: RUF012
    answer_type, result_type, results_type = Brightness, Result, Results
    finder = "support.brightness:find"

    def parse(self, outputs, metadata, window, options, settings):
        return self.everything(outputs, metadata)

    def everything(self, outputs, metadata, window=None):
        return outputs["value"].item() / 255

    def answer(self, found, size, options):
        return Brightness(round(found, 2))

    def scores(self, found):
        return [("bright" if found >= 0.5 else "dark", found)]


def find(graph, sidecar, export):
    """Find the signature; only the model's own process has TensorFlow."""
    from modelserver.runner.graphs.evidence import CLASSIFIERS
    from modelserver.runner.graphs.inputs import find_image
    from modelserver.runner.graphs.signature_finder import find_common

    image, outputs = (
        find_image(graph, sidecar),
        {
            role: graph.get_tensor_by_name(f"{name}:0")
            for role, name in BRIGHTNESS.outputs.items()
        },
    )
    about = {"habits": CLASSIFIERS, "lone": True, "kind": BRIGHTNESS.kind}
    return find_common(image, outputs, sidecar, export, **about)


BRIGHTNESS = BrightnessTask()
register(BRIGHTNESS)

if __name__ == "__main__":
    from modelserver.web.factory import create_app
    from modelserver.web.server.config import serve

    serve(create_app(BRIGHTNESS), default_port=BRIGHTNESS.endpoint.port)
