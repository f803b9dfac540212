"""The tasks that the server does with photos: all in which one differs from another.

A task is an object of a subclass of ``Task``; the rest of the server asks it and never
which one it is. One from outside is made known with ``modelserver.tasks.register``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import msgspec

from modelserver.core.messages import Mark
from modelserver.core.signatures import MAX_SIDE
from modelserver.tasks.export_files import NO_GRAPHS, Ranks
from modelserver.tasks.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from modelserver.core.contract import Endpoint
    from modelserver.core.messages import Outputs
    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Signature
    from modelserver.tasks.labels import LabelMap

R = TypeVar("R")
_PLAIN = Options()
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""All of a photo, in its normalised coordinates."""

# An image of the largest size that a sidecar may name, a byte a pixel.
MOST_OUTPUT_BYTES = MAX_SIDE * MAX_SIDE

Finds = Literal["boxes", "classes", ""]


class Finding(NamedTuple):
    """One thing that a model found in a photo, for answers in any form.

    Attributes:
        class_id: the label map's id.
        confidence: 0..1.
        box: x1 y1 x2 y2 of the upright photo, in what was asked for; the whole photo
            for a class.
    """

    class_id: int
    label: str
    confidence: float
    box: Box = WHOLE


Role = Literal["graph", "labels", "names", "facts", "sidecar", "image", "expected"]
"""The use of a file to a model; ``names`` are labels in plain text."""


class Metadata(NamedTuple):
    """The facts that reading a model's outputs needs.

    Attributes:
        offset: of a classifier: label id = output index + offset.
    """

    signature: Signature
    labels: LabelMap
    offset: int = 0


class Task(ABC, Generic[R]):
    """One task; ``R`` is its finding in a photo. Immutable, so safe to share.

    Attributes:
        kind: its name in ``/models``, in files and in messages between processes.
        endpoint: its route and its app's default port.
        app: the file that serves it alone.
        summary: the purpose of its route, for the API's description.
        heading: the question on its page.
        slides: its page has a slider for the confidence that is shown.
        graph_ending, labels_ending: of the files of a model of it.
        names_ending: of labels in plain text, where they are taken; else empty.
        exported: names of graphs that only tools for this task write.
        exported_by: who writes them, for a sentence.
        outputs: role to the name that the output gets when a model is imported, which
            is where the server looks for it.
        optional: roles that a model may lack.
        finds: what :meth:`findings` gives: labelled boxes, or classes of the whole
            photo; empty for a task that has neither.
        options: names of the request's options that change the answer.
        first_id: the first class's id in a label map without numbers.
        answer_type: of the answer to one photo and one model.
        result_type: of one result among several; has ``file``, ``model``, ``error``
            and, unless :meth:`result` says otherwise, the members of an answer.
        results_type: of several; has ``results``.
        finder: ``module:function`` that finds a graph's signature, for a task from
            outside; see ``runner.graphs.signature_finder``.
    """

    kind: ClassVar[str]
    endpoint: ClassVar[Endpoint]
    app: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    heading: ClassVar[str] = "What is in the photo?"
    slides: ClassVar[bool] = False
    graph_ending: ClassVar[str]
    labels_ending: ClassVar[str]
    names_ending: ClassVar[str] = ""
    exported: ClassVar[tuple[str, ...]] = ()
    exported_by: ClassVar[str] = ""
    outputs: ClassVar[Mapping[str, str]]
    optional: ClassVar[frozenset[str]] = frozenset()
    finds: ClassVar[Finds] = ""
    options: ClassVar[frozenset[str]] = frozenset()
    first_id: ClassVar[int] = 0
    answer_type: ClassVar[Any]
    result_type: ClassVar[Any]
    results_type: ClassVar[Any]
    finder: ClassVar[str] = ""

    @abstractmethod
    def parse(
        self,
        outputs: Outputs,
        metadata: Metadata,
        window: Box,
        options: Options,
        settings: Settings,
    ) -> R:
        """Parse one image's arrays into the finding that a request asks for.

        Args:
            window: ymin xmin ymax xmax of the part that the graph saw, in the photo's
                normalised coordinates.
            options: the request's.
            settings: the server's.

        Raises:
            ValueError, KeyError: the arrays are not as the signature says.
        """

    def shorten(self, outputs: Outputs) -> Outputs:
        """Return of one image's arrays the part that an answer can be made of.

        The runner does it before it sends them, so that a graph cannot give the
        engine more than it can ever answer.
        """
        return outputs

    def output_bytes(self, signature: Signature) -> int:
        """Return the most bytes that one image's arrays may have, once shortened."""
        del signature
        return MOST_OUTPUT_BYTES

    def below(
        self,
        outputs: Outputs,
        metadata: Metadata,
        window: Box,
        options: Options,
        settings: Settings,
    ) -> tuple[int, float] | None:
        """Count what an empty answer lacks only because it is too unsure.

        The arguments and errors are those of :meth:`parse`.

        Returns:
            Findings from ``SCORE_FLOOR`` to below the least confidence, and that
            confidence; ``None`` for a task without such a threshold.
        """
        del outputs, metadata, window, options, settings
        return None

    @abstractmethod
    def everything(
        self, outputs: Outputs, metadata: Metadata, window: Box = WHOLE
    ) -> R:
        """Parse one image's arrays into all that is in them, however unsure.

        The arguments and errors are those of :meth:`parse`.
        """

    @abstractmethod
    def answer(self, found: R, size: tuple[int, int], options: Options) -> Any:
        """Return a finding as the contract's ``answer_type``.

        Args:
            size: width and height of the upright photo, in pixels.
        """

    def result(self, file: str, model: str, answer: Any) -> Any:
        """Return an answer as one ``result_type`` among several."""
        members = {name: getattr(answer, name) for name in answer.__struct_fields__}
        return self.result_type(file=file, model=model, **members)

    def findings(self, answer: Any) -> Sequence[Finding]:
        """Return the findings of an answer, best first; see ``finds``.

        Args:
            answer: of ``answer_type``; of a classifier, to a request with ``top_k``.
        """
        del answer
        return ()

    def scores(self, found: R) -> Sequence[tuple[str, float]]:
        """Return the labels that were found with their confidences, best first."""
        del found
        return ()

    def answered(self, found: R) -> R:
        """Return the part of a finding that is the answer."""
        return found

    def marks(self, found: R) -> Iterable[Mark]:
        """Return the marks to draw over the photo."""
        return [
            Mark(label, f"{label} {confidence:.2f}", WHOLE)
            for label, confidence in self.scores(self.answered(found))
        ]

    def lines(self, found: R) -> Iterable[str]:
        """Return the lines that ``DEBUG`` prints, one for each thing found."""
        return [f"{label} {confidence}" for label, confidence in self.scores(found)]

    def difference(self, expected: bytes, found: R, min_confidence: float) -> str:
        """Describe how a golden image's answer differs; empty if it does not.

        Args:
            expected: JSON, an answer of the task's route.
            found: as :meth:`everything` gave it.
            min_confidence: the server's ``MIN_CONFIDENCE``.

        Raises:
            msgspec.MsgspecError: ``expected`` is no such answer.
        """
        del min_confidence
        wanted = msgspec.json.decode(expected, type=self.answer_type)
        seen = self.answer(found, (1, 1), _PLAIN)
        return "" if wanted == seen else f"{wanted} is expected, the model says {seen}"

    def graph_files(self, told: str | None) -> Ranks:
        """Return the names of a graph in a folder of an export.

        Args:
            told: the kind that the export's manifest names, if it does.
        """
        return ((f"*{self.graph_ending}",),) if told in {None, self.kind} else ()

    def label_files(self, graph: str, told: str | None, named: str | None) -> Ranks:
        """Return the names of a label map in a folder of an export.

        Args:
            graph: the graph's file name.
            told: as of :meth:`graph_files`.
            named: the labels' file as the manifest names it, if it does.
        """
        del graph, told, named
        return ((f"{{name}}{self.labels_ending}",), ("*.pbtxt",))

    def no_graphs(self) -> tuple[str, ...]:
        """Return names that end as its graphs do, in such a folder, and are none."""
        return NO_GRAPHS

    def named_outputs(self, outputs: Sequence[str]) -> dict[str, str]:
        """Find the outputs of a model to import by their names.

        Args:
            outputs: names of tensors, such as ``a/detection_boxes:0``.

        Returns:
            Role to output, for those that are found.
        """
        return {
            role: output
            for role, name in self.outputs.items()
            for output in outputs
            if node_of(output) == name
        }


def node_of(output: str) -> str:
    """Return the last part of an output's name: ``a/detection_boxes:0``."""
    return output.partition(":")[0].rpartition("/")[2]
