"""The default models' label maps."""

import json

from google.protobuf import text_format

from modelserver.tasks.labels import _label_map_pb2
from modelserver.tools.zoo import catalogue


def parsed(text):
    """Return the items of a label map as protobuf reads it."""
    return text_format.Parse(text, _label_map_pb2.StringIntLabelMap()).item


def test_coco_has_eighty_classes_with_gaps():
    """The 80 classes carry the ids that the detector was trained with."""
    items = {item.id: item.display_name for item in parsed(catalogue.coco())}
    assert len(items) == 80
    assert len(set(items.values())) == 80
    assert items[1] == "person"
    assert items[17] == "cat"
    assert items[18] == "dog"
    assert items[90] == "toothbrush"
    unused = set(range(1, 91)) - set(items)
    assert unused == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert items[10] == "traffic light"
    assert items[89] == "hair drier"


def test_imagenet_shows_the_first_synonym(tmp_path):
    """A class is shown by its first name and keeps all of them."""
    path = tmp_path / "names.json"
    path.write_text(
        json.dumps({"1": "goldfish, Carassius", "0": "tench", "134": "crane"})
    )
    items = parsed(catalogue.imagenet(path))
    assert [(item.id, item.name, item.display_name) for item in items] == [
        (0, "tench", "tench"),
        (1, "goldfish, Carassius", "goldfish"),
        (134, "crane", "crane (bird)"),
    ]


def test_names_are_quoted():
    """Quotes, backslashes and other alphabets survive."""
    names = ['jack-o\'-lantern "x"', "back\\slash", "Робин"]
    items = parsed(catalogue.label_map_text((1, "", name) for name in names))
    assert [item.display_name for item in items] == names
