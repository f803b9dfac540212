"""From an upload's bytes to upright uint8 RGB pixels, and from those to a model's size.

The only home of Pillow and simplejpeg. No function here keeps state, so all of them
may be called from any thread; the decoders release the GIL while they work.

    limits       how large an image may be, checked from its header
    orientation  EXIF and XMP orientation, and the one copy that applies it
    colours      any mode to RGB
    decoding     which format, which decoder, into whose memory
    resizing     stretch, crop, pad; gray; PNG for graphs that decode by themselves
"""

from modelserver.images.decoding import Allocate, Picture, decode
from modelserver.images.limits import Limits
from modelserver.images.resizing import encode_png, resize, source_window, to_gray

__all__ = [
    "Allocate",
    "Limits",
    "Picture",
    "decode",
    "encode_png",
    "resize",
    "source_window",
    "to_gray",
]
