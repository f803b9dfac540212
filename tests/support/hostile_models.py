"""A corpus of hostile and corrupt models, built by code.

``files(marker)`` are refused when they are read and checked, before TensorFlow sees
them. ``loads()`` pass that check and are refused, or end their own process, when they
are loaded. ``odd_answers()`` load, and give answers that are none. ``label_maps()`` lie
beside a sound graph. Each gives names with what is expected of them.
"""

from dataclasses import dataclass

import tensorflow as tf

from support import hostile_functions, hostile_tensors, tiny_graphs
from support.hostile_building import graph, sound
from support.tiny_graphs.building import building, file_of, v1


@dataclass(frozen=True)
class Hostile:
    """A file and what is said about it.

    Attributes:
        data: its bytes.
        reason: a regular expression that the reason holds.
        trusted: whether it stands for a file in ``TRUSTED_MODELS``.
    """

    data: bytes
    reason: str
    trusted: bool = False


def files(marker):
    """Give graphs that are refused unseen; some would write the file ``marker``."""
    found = {f"file_{name}": Hostile(*one) for name, one in _no_graphs().items()}
    found |= {f"nodes_{name}": Hostile(*one) for name, one in _bad_nodes().items()}
    for name, make in _touching(str(marker)).items():
        found[f"op_{name}"] = Hostile(using(make), r"it uses the op \w+ in the node")
    for op in _BY_HAND:
        data = sound(("bad", op))
        found[f"op_{op}".lower()] = Hostile(data, f"the op {op} in the node 'bad'")
    for part in (hostile_functions.corpus(), hostile_tensors.corpus()):
        found |= {name: Hostile(*one) for name, one in part.items()}
    return found


def _no_graphs():
    """Files that are something else."""
    echo = tiny_graphs.echo_detector()
    cut = "not a frozen TensorFlow graph, or is cut off"
    faults = {
        "empty": "is empty",
        "html": "web page",
        "lfs_pointer": "Git LFS pointer",
        "png": "PNG image",
        "text_form": "text form",
        "random_bytes": cut,
        "saved_model": "is a SavedModel",
        "cut_off": cut,
    }
    return {name: (tiny_graphs.FAULTS[name](), why) for name, why in faults.items()} | {
        "one_byte": (b"\x08", cut),
        "without_its_last_byte": (echo[:-1], cut),
        "cut_in_the_first_node": (echo[:20], cut),
        "jpeg": (b"\xff\xd8\xff\xe0" + echo, "JPEG image"),
        "gzip": (b"\x1f\x8b\x08" + echo, "gzip"),
        "zip": (b"PK\x03\x04" + echo, "zip"),
        "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
        "pickle": (b"\x80\x02}q\x00.", "pickle"),
        "tflite": (b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
        "only_versions": (b"\x22\x02\x08\x01", cut),
    }


def _bad_nodes():
    """Graphs whose nodes do not hang together."""
    no_name = "has no proper name"
    return {
        "too_many": (b"\x0a\x00" * 250_001, "has 250001 nodes"),
        "twice": (sound(("bad", "NoOp"), ("bad", "NoOp")), "two nodes are called 'bad"),
        "missing_input": (sound(("bad", "Identity", "gone")), "needs 'gone', which is"),
        "missing_control": (sound(("bad", "NoOp", "^gone")), r"needs '\^gone'"),
        "without_a_name": (sound(("", "NoOp")), no_name),
        "name_of_10_mb": (sound(("n" * 10_000_000, "NoOp")), no_name),
        "name_with_nul": (sound(("a\0b", "NoOp")), r"'a\\x00b' has no proper name"),
        "name_with_newline": (sound(("a\nFAKE", "NoOp")), r"'a\\nFAKE' has no"),
        "name_with_colour": (sound(("\x1b[31m", "NoOp")), r"'\\x1b\[31m' has no"),
        "unknown_op": (tiny_graphs.unknown_op(), "the op SomebodysOwnOp, which this"),
        "op_with_newline": (sound(("bad", "No\nOp\x1b[2J")), r"op No\\nOp\\x1b\[2J,"),
        "op_of_1_mb": (sound(("bad", "O" * 1_000_000)), r"the op O{197}\.\.\., which"),
    }


def using(make):
    """A detector that first runs what ``make`` builds."""
    with building() as built:
        image = v1.placeholder(tf.uint8, (None, None, None, 3), "image_tensor")
        with tf.control_dependencies([make()]):
            tiny_graphs.name_outputs(tf.identity(image))
    return file_of(built)


def _touching(marker):
    """Ops that reach out of the model, by name: functions that build them."""
    ops = tf.raw_ops
    one = {"tensor_names": ["x"], "shape_and_slices": [""]}
    there = "/etc/hostname"
    return {
        "read_file": lambda: ops.ReadFile(filename=there),
        "write_file": lambda: ops.WriteFile(filename=marker, contents="x"),
        "matching_files": lambda: ops.MatchingFiles(pattern="/*"),
        "immutable_const": lambda: ops.ImmutableConst(
            dtype=tf.uint8, shape=[1], memory_region_name=there
        ),
        "print": lambda: ops.Print(input=1.0, data=[1.0]),
        "print_v2": lambda: ops.PrintV2(input="x", output_stream=f"file://{marker}"),
        "py_func": lambda: ops.PyFunc(input=[], token="t", Tout=[tf.int32])[0],
        "py_func_stateless": lambda: ops.PyFuncStateless(
            input=[], token="t", Tout=[tf.int32]
        )[0],
        "eager_py_func": lambda: ops.EagerPyFunc(input=[], token="t", Tout=[tf.int32])[
            0
        ],
        "abort": lambda: ops.Abort(error_msg="x"),
        "save": lambda: ops.Save(filename=marker, tensor_names=["x"], data=[1.0]),
        "save_v2": lambda: ops.SaveV2(prefix=marker, tensors=[1.0], **one),
        "restore_v2": lambda: ops.RestoreV2(prefix=there, dtypes=[tf.float32], **one)[
            0
        ],
        "merge_v2_checkpoints": lambda: ops.MergeV2Checkpoints(
            checkpoint_prefixes=[there], destination_prefix=marker
        ),
        "whole_file_reader": ops.WholeFileReaderV2,
        "text_line_reader": ops.TextLineReaderV2,
        "text_line_dataset": lambda: ops.TextLineDataset(
            filenames=[there], compression_type="", buffer_size=1
        ),
        "table_from_text_file": lambda: ops.InitializeTableFromTextFileV2(
            table_handle=ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.string),
            filename=there,
            key_index=-1,
            value_index=-2,
        ),
        "summary_writer": lambda: ops.CreateSummaryFileWriter(
            writer=ops.SummaryWriter(),
            logdir=marker,
            max_queue=1,
            flush_millis=1,
            filename_suffix="",
        ),
    }


# Ops that are hard to build, as bare nodes: the name alone decides.
_BY_HAND = (
    "SaveSlices",
    "SqlDataset",
    "LMDBReader",
    "DebugIdentity",
    "DebugIdentityV3",
    "RpcClient",
    "RpcServer",
    "DataServiceDataset",
    "WriteScalarSummary",
    "RemoteCall",
    "_Send",
    "_Recv",
    "_HostSend",
    "_HostRecv",
    "CollectiveReduceV2",
    "ConfigureDistributedTPU",
    "XlaLaunch",
    "FileSystemSetConfiguration",
    "SleepOp",
    "RecordInput",
    "LoadAndRemapMatrix",
    "GenerateVocabRemapping",
    "FixedUnigramCandidateSampler",
    "QueueDequeueV2",
)


def loads():
    """Give graphs that pass the check; their reason is that of ``/models``."""
    crash = tiny_graphs.crashes_always()
    return {
        "load_cut_at_a_node": Hostile(tiny_graphs.cut_at_a_node(), "detection_boxes"),
        "load_raw_heads": Hostile(tiny_graphs.raw_heads(), "post-processing"),
        "load_no_placeholder": Hostile(tiny_graphs.no_placeholder(), "."),
        "load_two_images": Hostile(tiny_graphs.two_images(), "."),
        "load_not_frozen": Hostile(tiny_graphs.not_frozen(), "it holds variables"),
        "load_one_op": Hostile(graph(("a", "NoOp")), "detection_boxes"),
        "load_in_a_circle": Hostile(
            sound(("a", "NoOp", "^b"), ("b", "NoOp", "^a")), "."
        ),
        "load_without_attributes": Hostile(sound(("bad", "Cast", "image_tensor")), "."),
        "load_from_the_future": Hostile(_from_the_future(), "newer TensorFlow"),
        "load_crashes": Hostile(crash, "SIGABRT", trusted=True),
        "load_hangs": Hostile(tiny_graphs.hangs_always(), "LOAD_TIMEOUT_S"),
        "load_other_rank": Hostile(
            tiny_graphs.echo_detector(boxes=lambda boxes: boxes[..., 0]), "."
        ),
        "load_text_scores": Hostile(
            tiny_graphs.echo_detector(scores=tf.strings.as_string), "."
        ),
        "load_fixed_to_other_rows": Hostile(
            tiny_graphs.echo_detector(boxes=lambda boxes: tf.reshape(boxes, [5, 12])),
            ".",
        ),
    }


def _from_the_future():
    message = v1.GraphDef.FromString(tiny_graphs.echo_detector())
    message.versions.min_consumer = message.versions.producer = 10**6
    return message.SerializeToString()


def odd_answers():
    """Give detectors that load and whose answers need care, or end their process."""
    return {
        "odd_nan_scores": tiny_graphs.nan_scores_detector(),
        "odd_count_too_big": tiny_graphs.count_too_big_detector(),
        "odd_class_ids": tiny_graphs.high_class_ids_detector(),
        "odd_nan_count": tiny_graphs.echo_detector(count=lambda count: count / 0.0),
        "odd_infinite_boxes": tiny_graphs.echo_detector(
            boxes=lambda boxes: boxes + float("inf")
        ),
        "odd_negative_count": tiny_graphs.echo_detector(count=lambda count: -count),
    }


def label_maps():
    """Give label maps that are none, with what is said of them."""
    item = b'item { id: 1 name: "a" }\n'
    return {
        "labels_empty": Hostile(b"", "empty"),
        "labels_blank": Hostile(b" \n\t\n", "empty"),
        "labels_html": Hostile(b"<!DOCTYPE html><html></html>", "web page"),
        "labels_lfs": Hostile(b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        "labels_json": Hostile(b'{"1": {"cat": [2]}}', "no list of class names"),
        "labels_json_twice": Hostile(b'{"1": "a", "1": "b"}', "is there twice"),
        "labels_json_nested": Hostile(b"[" * 100_000, "no list of class names"),
        "labels_json_cut": Hostile(b'{"1": "cat", "2": "d', "no list of class names"),
        "labels_json_html": Hostile(b'["a", "\x1b[31m<b>"', "no list of class names"),
        "labels_graph": Hostile(b'node { name: "a" op: "NoOp" }', "graph in text form"),
        "labels_truncated": Hostile(item + b'item { id: 2 name: "b', "."),
        "labels_twice": Hostile(item + item, "is already that of"),
        "labels_no_id": Hostile(b'item { name: "a" }', "has no id"),
        "labels_negative": Hostile(b"item { id: -1 }", "below zero"),
        "labels_too_high": Hostile(b"item { id: 99999999999999999999 }", "."),
        "labels_latin_1": Hostile(b'item { id: 1 name: "caf\xe9" }', "UTF-8"),
        "labels_utf_16": Hostile(item.decode().encode("utf-16")[:-1], "UTF-16"),
        "labels_binary": Hostile(bytes(range(256)), "."),
        "labels_nested": Hostile(b"item {" * 100_000, "."),
        "labels_too_large": Hostile(item + b"#" * (1 << 20), "larger than 1 MiB"),
        "labels_too_many": Hostile(
            b"".join(b"item{id:%d}" % number for number in range(20_000)), "more than"
        ),
        "labels_other_schema": Hostile(b'entry { key: 1 value: "a" }', "no field"),
    }


def assert_fit_to_show(reason, *folders):
    """A reason is one short printable line without a path or a traceback."""
    assert reason.isprintable()
    assert len(reason) <= 1000
    assert "Traceback" not in reason
    assert 'File "' not in reason
    for folder in folders:
        assert str(folder) not in reason
