"""Models of other formats, made by code: SavedModels, Keras files, graph models."""

import warnings

import numpy as np
import tensorflow as tf

from support import tfjs_models as made

v1 = tf.compat.v1

SIZE = 16


def weights(*shape, seed=3):
    """Some float32 weights, the same at every call."""
    random = np.random.default_rng(seed)
    return random.normal(size=shape).astype(np.float32)


def detections(image, filters):
    """A small detector as TensorFlow 2 writes it: map_fn, while, suppression."""
    small = tf.map_fn(
        lambda one: tf.image.resize(tf.cast(one, tf.float32), [SIZE, SIZE]),
        image,
        fn_output_signature=tf.float32,
    )
    found = tf.nn.conv2d(small / 255.0, filters, 4, "SAME")
    corners = tf.sigmoid(tf.reshape(found, [1, -1, 4]))
    boxes = tf.concat([corners[..., :2] / 2, 0.5 + corners[..., 2:] / 2], -1)
    scores = corners[..., 0]
    turns = tf.constant(0)
    while turns < 2:
        scores = scores * 0.9
        turns += 1

    def suppressed(parts):
        kept = tf.image.non_max_suppression(*parts, 8, 0.9)
        return tf.gather(parts[0], kept), tf.gather(parts[1], kept)

    kept, sure = tf.map_fn(
        suppressed, (boxes, scores), fn_output_signature=(tf.float32, tf.float32)
    )
    return {
        "detection_boxes": kept,
        "detection_scores": sure,
        "detection_classes": 1 + tf.round(sure),
        "num_detections": tf.cast(tf.shape(sure)[1:], tf.float32),
        "raw_detection_boxes": boxes,
    }


def detector(folder, *, rename=None):
    """A TensorFlow 2 SavedModel of a detector; ``rename`` changes its outputs' names."""
    module = tf.Module()
    module.filters = tf.Variable(weights(3, 3, 3, 4))
    rename = rename or {}

    @tf.function
    def serve(image):
        parts = detections(image, module.filters)
        return {rename.get(name, name): part for name, part in parts.items()}

    spec = tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor")
    module.serve = serve
    tf.saved_model.save(module, str(folder), serve.get_concrete_function(spec))
    return folder


def classifier(folder, *, inputs=1, ending=tf.nn.softmax):
    """A TensorFlow 2 SavedModel of a classifier of three classes."""
    module = tf.Module()
    module.matrix = tf.Variable(weights(3, 3))

    @tf.function
    def serve(*images):
        return {
            "probs": ending(tf.reduce_mean(sum(images), [1, 2]) @ module.matrix),
            "features": tf.reduce_mean(images[0], [1, 2]),
        }

    specs = [
        tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name=f"x{number}")
        for number in range(inputs)
    ]
    module.serve = serve
    tf.saved_model.save(module, str(folder), serve.get_concrete_function(*specs))
    return folder


def old_detector(folder, *, key="serving_default", variables=True):
    """A TensorFlow 1 SavedModel as the Object Detection API wrote it."""
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.uint8, [None, None, None, 3], "image_tensor")
        mean = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2]) / 255.0
        scale = v1.get_variable("scale", initializer=weights(3), use_resource=False)
        if variables:
            session.run(v1.global_variables_initializer())
        scores = tf.sigmoid(mean * scale)
        box = tf.concat([mean[:, :2] / 2, 0.5 + mean[:, 1:] / 2], 1)
        outputs = {
            "detection_boxes": tf.tile(box[:, None], [1, 3, 1]),
            "detection_scores": scores,
            "detection_classes": tf.ones_like(scores),
            "num_detections": 3 * tf.ones_like(scores[:, 0]),
        }
        named = {name: tf.identity(part, name) for name, part in outputs.items()}
        definition = v1.saved_model.predict_signature_def({"inputs": image}, named)
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {key: definition})
        builder.save()
    return folder


def keras_model(*, rescaling=False, ending="softmax"):
    """A Keras classifier of four classes."""
    layers = tf.keras.layers
    first = [layers.Rescaling(1 / 127.5, offset=-1)] if rescaling else []
    model = tf.keras.Sequential(
        [
            layers.Input((SIZE, SIZE, 3)),
            *first,
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation=ending),
        ]
    )
    model.set_weights([weights(*one.shape) ** 2 for one in model.get_weights()])
    return model


def older_keras_file(path, *more):
    """An ``.h5`` file by Keras 2, of Teachable Machine's form: models inside models."""
    import tf_keras

    layers = tf_keras.layers
    image = layers.Input((SIZE, SIZE, 3))
    seen = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same")(image))
    base = tf_keras.Model(image, layers.Conv2D(6, 1)(seen))
    eye = tf_keras.Sequential([base, *more, layers.GlobalAveragePooling2D()])
    head = tf_keras.Sequential([layers.Dense(4, activation="softmax", input_shape=[6])])
    model = tf_keras.Sequential([eye, head])
    model.build((None, SIZE, SIZE, 3))
    model.set_weights([weights(*one.shape) for one in model.get_weights()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the format, which is the point
        model.save(path)
    return path


def graph_model(folder, *, signature=None, activation="Prelu"):
    """A TensorFlow.js classifier with a depthwise convolution that has all fused in."""
    float32, nhwc = {"type": 1}, {"s": "TkhXQw=="}
    strides = {"list": {"i": ["1", "1", "1", "1"]}}
    values = {
        "filter": weights(3, 3, 3, 1),
        "bias": weights(3),
        "slope": weights(3, seed=5),
        "matrix": weights(3, 4),
        "axes": np.array([1, 2], np.int32),
    }
    fused = [
        made.node(
            *("FusedDepthwiseConv2dNative", "depthwise", "image", "filter"),
            *(["bias", "slope"] if activation == "Prelu" else ["bias"]),
            T=float32,
            strides=strides,
            padding={"s": "U0FNRQ=="},
            data_format=nhwc,
            fused_ops={"list": {"s": [list(b"BiasAdd"), list(activation.encode())]}},
        ),
        made.node("Mean", "mean", "depthwise", "axes", T=float32, Tidx={"type": 3}),
        made.node("MatMul", "logits", "mean", "matrix", T=float32),
        made.node("Softmax", "probabilities", "logits", T=float32),
    ]
    nodes = [made.placeholder("image", "float32", -1, SIZE, SIZE, 3)]
    nodes += [*map(made.const, values), *fused]
    specs = [made.spec(name, array) for name, array in values.items()]
    data = b"".join(array.tobytes() for array in values.values())
    made.write(folder, nodes, specs, data)
    if signature:
        path = folder / "model.json"
        import json

        model = json.loads(path.read_text()) | {"signature": signature}
        path.write_text(json.dumps(model))
    return folder
