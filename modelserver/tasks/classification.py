"""The classification task: a photo in, a class out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from modelserver.core import contract
from modelserver.core.contract import Class, Classified
from modelserver.tasks import export_files, matching
from modelserver.tasks.confidences import confidences, in_one_row
from modelserver.tasks.options import MOST, Options
from modelserver.tasks.task import WHOLE, Box, Finding, Metadata, Task, node_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from modelserver.core.messages import Outputs
    from modelserver.core.settings import Settings
    from modelserver.core.signatures import Signature
    from modelserver.tasks.export_files import Ranks
    from modelserver.tasks.labels import LabelMap


# A class that excludes no other is an answer from here on.
LEAST = 0.5


@dataclass(frozen=True)
class Classification:
    """One class with its score.

    Attributes:
        class_id: the label map's id.
        confidence: 0..1.
        holds: it can be the answer. Of classes that exclude each other each can; of
            independent ones those with a confidence of at least .5.
    """

    class_id: int
    label: str
    confidence: float
    holds: bool = True


def parse(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    offset: int,
    *,
    softmax: bool = False,
    sigmoid: bool = False,
    independent: bool = False,
    top: int = 5,
) -> list[Classification]:
    """Turn one image's class scores into its best classes, best first.

    A lone value is the probability of the second of two labels, or of the one label
    where there is just one.

    Args:
        outputs: ``scores``, one value a class, of any rank.
        offset: label id = output index + offset.
        softmax: the scores are logits of classes that exclude each other.
        sigmoid: the scores are logits, each of a probability of its own.
        independent: the classes do not exclude each other.
        top: how many classes to return.

    Raises:
        ValueError: there is no score, or one that is no probability.
    """
    raw = in_one_row(np.asarray(outputs["scores"])).astype(np.float64)
    scores = probabilities(raw, softmax=softmax, sigmoid=sigmoid)
    ids: Sequence[int] = range(offset, offset + len(scores))
    if len(scores) == 1:
        ids, scores = _of_one_value(labels, offset, scores)
        independent = len(scores) == 1
    best = _best(scores, top)
    return [
        Classification(
            ids[index],
            labels.name(ids[index]),
            float(scores[index]),
            holds=not independent or bool(scores[index] >= LEAST),
        )
        for index in best
    ]


def _best(scores: NDArray[np.float64], top: int) -> list[int]:
    """Return the places of the best scores, best first; of equal ones in their order.

    A million are not sorted for the best five: that would take the engine's time.
    """
    places: NDArray[np.intp] = np.arange(len(scores))
    if top < len(scores):
        last = np.partition(scores, len(scores) - top)[len(scores) - top]
        places = np.flatnonzero(scores >= last)
    found: list[int] = places[np.argsort(-scores[places], kind="stable")[:top]].tolist()
    return found


def probabilities(
    scores: NDArray[np.float64], *, softmax: bool, sigmoid: bool
) -> NDArray[np.float64]:
    """Make probabilities of one image's scores.

    Args:
        scores: of any shape; a logit may be infinite, unless a softmax's is above all.
        softmax, sigmoid: as of ``parse``; without either they are probabilities.

    Raises:
        ValueError: there is none, or one that is a NaN or more than 1e-3 outside 0..1.
    """
    if not scores.size:
        raise ValueError("it gave no scores")
    if softmax:
        # An infinite best one leaves a NaN, which is told as such.
        with np.errstate(invalid="ignore"):
            scores = np.exp(scores - scores.max())
            scores = scores / scores.sum()
    elif sigmoid:
        # exp(-x) is infinite for logits below -709, whose probability is 0.
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-scores))
    return confidences(scores)


def _of_one_value(
    labels: LabelMap, offset: int, scores: NDArray[np.float64]
) -> tuple[Sequence[int], NDArray[np.float64]]:
    """Give the ids and probabilities that a lone probability stands for."""
    # Label maps bring protobuf, without which tasks are known and files are found.
    from modelserver.tasks.labels import pair  # noqa: PLC0415

    value = float(scores[0])
    ids = pair(labels, offset)
    return ids, np.array([1 - value, value])[-len(ids) :]


def classes_of(
    signature: Signature,
    outputs: Mapping[str, NDArray[np.generic]],
    labels: LabelMap,
    offset: int,
    top: int = 5,
) -> list[Classification]:
    """Turn one image's outputs into the best classes as the signature says.

    The arguments and errors are those of ``parse``.
    """
    return parse(
        outputs,
        labels,
        offset,
        softmax=signature.softmax,
        sigmoid=signature.sigmoid,
        independent=signature.independent,
        top=top,
    )


def answered(classes: Sequence[Classification]) -> list[Classification]:
    """Give the class that is the answer, if there is one.

    Args:
        classes: best first.

    Returns:
        The best class, or nothing where no independent class has a confidence of .5.
    """
    return [one for one in classes[:1] if one.holds]


def answer_of(classes: Sequence[Classification]) -> str | None:
    """Give the answer's label, ``None`` where there is none; see ``answered``."""
    return next((one.label for one in answered(classes)), None)


# Of the classes that are parsed where none are asked for, for the log.
_TOP = 5
# More than any label map has names.
_EVERY = 1_000_000
_SCORE_BYTES = 8  # float64, the widest
# What exporters call class scores, the surest first, where there are several outputs.
_SCORES = ("scores", "predictions", "probabilities", "probs", "softmax", "output_0")
# Custom Vision writes model.pb; tensorflow-for-poets retrained_graph.pb, and makes the
# others of it; retrain.py output_graph.pb; TensorFlow's tools frozen_graph.pb.
_GRAPHS: Ranks = (
    (
        *("model.pb", "retrained_graph.pb", "output_graph.pb"),
        *("frozen_graph.pb", "frozen_model.pb", "{name}.pb"),
    ),
    ("optimized_graph.pb",),
    ("rounded_graph.pb", "quantized_graph.pb", "eightbit_graph.pb"),
    ("*.pb",),
)


class ClassificationTask(Task[list[Classification]]):
    """A photo in, its class out."""

    kind = "classification"
    endpoint = contract.CLASSIFY
    app = "app_classify.py"
    summary = "Tell what photos are of"
    graph_ending, labels_ending, names_ending = ".pb", ".pbtxt", ".labels.txt"
    outputs: ClassVar[Mapping[str, str]] = {"scores": "scores"}
    finds = "classes"
    options = frozenset({"min_confidence", "labels", "max_results", "top_k"})
    answer_type = Classified
    result_type = contract.ClassifyResult
    results_type = contract.ClassifyResults

    def parse(
        self,
        outputs: Outputs,
        metadata: Metadata,
        window: Box,
        options: Options,
        settings: Settings,
    ) -> list[Classification]:
        """Make the best classes: five, or as many as are asked for; see ``Task``."""
        del window, settings
        return classes_of(*_ordered(outputs, metadata), max(options.top_k or 0, _TOP))

    def output_bytes(self, signature: Signature) -> int:
        """Return the bytes of a score a class; see ``Task``."""
        return (signature.classes or _EVERY) * _SCORE_BYTES

    def everything(
        self, outputs: Outputs, metadata: Metadata, window: Box = WHOLE
    ) -> list[Classification]:
        """Make the best 10,000 classes; see ``Task``."""
        del window
        return classes_of(*_ordered(outputs, metadata), MOST)

    def answer(
        self, found: list[Classification], size: tuple[int, int], options: Options
    ) -> Classified:
        """Return the best class, and others only where asked for.

        The class is ``None`` where no independent one has a confidence of .5.

        Args:
            found: best first, at least one.
            size: does not matter.
            options: with ``top_k``, of the first so many those that they want are
                added.
        """
        del size
        best = answer_of(found)
        if options.top_k is None:
            return Classified(best)
        least = options.min_confidence or 0.0
        listed = [
            # The fewest digits that read back as the same float32.
            Class(one.class_id, one.label, float(str(np.float32(one.confidence))))
            for one in found[: options.top_k]
            if one.confidence >= least and options.wants(one.label)
        ]
        return Classified(best, listed[: options.max_results])

    def findings(self, answer: Classified) -> list[Finding]:
        """Return the classes that were asked for; see ``Task``."""
        return [
            Finding(one.class_id, one.label, one.confidence)
            for one in answer.classes or ()
        ]

    def scores(self, found: list[Classification]) -> list[tuple[str, float]]:
        """Return each class's label and confidence."""
        return [(one.label, one.confidence) for one in found]

    def answered(self, found: list[Classification]) -> list[Classification]:
        """Return the class that is the answer, if there is one."""
        return answered(found)

    def lines(self, found: list[Classification]) -> Iterator[str]:
        """Give a line for each of the best classes."""
        for one in found[:_TOP]:
            yield f"{one.label} {one.confidence}"

    def difference(
        self, expected: bytes, found: list[Classification], min_confidence: float
    ) -> str:
        """Tell how the best class differs; see ``Task``."""
        del min_confidence
        wanted = msgspec.json.decode(expected, type=matching.ExpectedClass)
        return matching.class_differs(wanted.label, answer_of(found))

    def graph_files(self, told: str | None) -> Ranks:
        """Return a classifier's graphs; a detector's export has none."""
        return _GRAPHS if told in {None, self.kind} else ()

    def label_files(self, graph: str, told: str | None, named: str | None) -> Ranks:
        """Return the names of label files; see ``Task``."""
        del told
        return export_files.label_files(graph, named)

    def named_outputs(self, outputs: Sequence[str]) -> dict[str, str]:
        """Find the scores: the only output, or by the habits of exporters."""
        if len(outputs) == 1:
            return {"scores": outputs[0]}
        for name in _SCORES:
            for output in outputs:
                if node_of(output).lower() == name:
                    return {"scores": output}
        return {}


def _ordered(
    outputs: Outputs, metadata: Metadata
) -> tuple[Signature, Outputs, LabelMap, int]:
    return metadata.signature, outputs, metadata.labels, metadata.offset


CLASSIFICATION = ClassificationTask()
