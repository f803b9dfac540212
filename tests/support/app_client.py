"""What a client of an app in this process sends, and how the app is set up."""

import io
import time

import numpy as np
from PIL import Image

from modelserver.core.settings import Settings

SECONDS = 120
EDGE = "edge-of-a-part"


def make_settings(**environ):
    """Settings from variables, as an operator gives them."""
    return Settings.from_environ({name: str(value) for name, value in environ.items()})


def photo(colour=(200, 100, 50), size=(32, 24), form="PNG"):
    """A photo's file: one colour all over."""
    buffer = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(buffer, form)
    return buffer.getvalue()


def noise(size=(48, 64), seed=0):
    """Pixels, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def left_in(folder):
    """What stays in a folder once the requests under way have been answered."""
    until = time.monotonic() + SECONDS
    while (left := list(folder.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def form(fields, file=None):
    """The bytes of a multipart form, as curl sends it."""
    parts = [
        f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + value.encode()
        for name, value in fields.items()
    ]
    if file is not None:
        head = 'Content-Disposition: form-data; name="file"; filename="photo.jpg"'
        parts.append(f"--{EDGE}\r\n{head}\r\n\r\n".encode() + file)
    return b"\r\n".join([*parts, f"--{EDGE}--\r\n".encode()])


def post(client, path, model, file, **options):
    """POST a multipart form and give the response."""
    return post_form(client, path, form({"modelname": model}, file), **options)


def post_form(client, path, body, **options):
    """POST a form's bytes and give the response."""
    kind = f"multipart/form-data; boundary={EDGE}"
    return client.post(path, data=body, content_type=kind, **options)
