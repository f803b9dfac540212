"""From an upload's bytes to upright uint8 RGB pixels, and from those to a model's size.

The only home of Pillow and simplejpeg. All functions may be called from any thread; the
decoders release the GIL while they work.

    orientation     EXIF and XMP orientation, and the one copy that applies it
    memory_files    Pillow's view of an upload
    png_files       a PNG as Pillow opens it, whose rows are all there
    bmp_files       a BMP as Pillow opens it, or of a kind that Pillow does not know
    bmp_runs        run lengths of a BMP
    formats         which format an upload has, and its opener
    decoders        which decoder, into whose memory; any mode to RGB
    resizing        stretch, crop, pad; gray; Custom Vision's middle square
    drawing         a photo with boxes and words over it
    jobs            all that for one photo and some models, in frames of theirs
    process         the processes that do the jobs, and their template
    sandbox         the walls around them
"""

from modelserver.core.messages.decodes import Limits
from modelserver.decoder.decoders import (
    Allocate,
    DecodedImage,
    Expect,
    anything,
    decode,
    decodes_in_full,
)
from modelserver.decoder.drawing import annotate
from modelserver.decoder.resizing import crop_from, resize, source_window, to_gray

__all__ = [
    "Allocate",
    "DecodedImage",
    "Expect",
    "Limits",
    "annotate",
    "anything",
    "crop_from",
    "decode",
    "decodes_in_full",
    "resize",
    "source_window",
    "to_gray",
]
