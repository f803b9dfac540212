"""Writes TensorFlow.js layers models, as the converter and as TensorFlow.js do."""

import json

import numpy as np


def write(folder, model, *, converted=True, name="model.json", shard="weights.bin"):
    """Write a Keras model's description, and its weights by name, sorted.

    ``converted``: as the converter of TensorFlow.js writes it; else as TensorFlow.js
    itself does, Teachable Machine for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = json.loads(model.to_json())
    version = described.pop("keras_version", "3.5.0")
    about = {"keras_version": version, "backend": "tensorflow"}
    topology = {**about, "model_config": described}
    if not converted:
        about["keras_version"] = "tfjs-layers 1.7.4"
        topology = {**about, **described}
    values = {
        getattr(one, "path", one.name).partition(":")[0]: np.asarray(one)
        for one in model.weights
    }
    specs = [
        {"name": name, "shape": list(value.shape), "dtype": "float32"}
        for name, value in sorted(values.items())
    ]
    data = b"".join(value.tobytes() for _, value in sorted(values.items()))
    (folder / shard).write_bytes(data)
    content = {
        "format": "layers-model",
        "modelTopology": topology,
        "weightsManifest": [{"paths": [f"./{shard}"], "weights": specs}],
    }
    (folder / name).write_text(json.dumps(content))
    return folder


def metadata(folder, labels, package="@teachablemachine/image", **more):
    """Write what Teachable Machine writes beside its model."""
    content = {
        "tfjsVersion": "1.7.4",
        "tmVersion": "2.4.10",
        "packageName": package,
        "labels": labels,
        "imageSize": 16,
        **more,
    }
    (folder / "metadata.json").write_text(json.dumps(content))


def teachable(size=16, classes=3):
    """A model of Teachable Machine's form, models inside models, by Keras 2."""
    import tf_keras

    layers = tf_keras.layers
    image = layers.Input((size, size, 3))
    seen = layers.Conv2D(4, 3, strides=2, use_bias=False, name="Conv1")(image)
    seen = layers.BatchNormalization(name="bn_Conv1")(seen)
    seen = layers.ReLU(6.0, name="Conv1_relu")(seen)
    base = tf_keras.Model(image, layers.DepthwiseConv2D(3, name="dw")(seen))
    eye = tf_keras.Sequential([base, layers.GlobalAveragePooling2D()])
    head = tf_keras.Sequential(
        [
            layers.Dense(5, activation="relu", name="dense_Dense1", input_shape=[4]),
            layers.Dense(
                classes, activation="softmax", use_bias=False, name="dense_Dense2"
            ),
        ]
    )
    model = tf_keras.Sequential([eye, head])
    model.build((None, size, size, 3))
    return filled(model)


def filled(model):
    """Give a model weights that are the same at every call."""
    random = np.random.default_rng(5)
    model.set_weights(
        [
            np.abs(random.normal(size=one.shape)).astype(np.float32)
            for one in model.get_weights()
        ]
    )
    return model
