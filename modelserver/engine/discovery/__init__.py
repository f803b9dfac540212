"""Finds the models in ``MODEL_FOLDER`` by their file names.

    detection        <prefix>.frozen.pb   <prefix>.label_map.pbtxt
    classification   <prefix>.pb          <prefix>.pbtxt or <prefix>.labels.txt
    either           <prefix>.json, the optional sidecar
                     <prefix>.test.jpg or <prefix>.test.png, and
                     <prefix>.expected.json, the optional golden image

    either           <prefix>/, a folder that holds one export as its tool wrote it

Both kinds may share a folder: each app sees its own kind's files only. Nothing is read
here but the bytes for a digest and the beginnings of text files that may be label maps,
and only regular files are ever opened.
All functions may be called from any thread.
"""

from modelserver.engine.discovery.files import Key, ModelFiles
from modelserver.engine.discovery.scan import MAX_GRAPH_BYTES, Discovery, discover, hint

__all__ = ["MAX_GRAPH_BYTES", "Discovery", "Key", "ModelFiles", "discover", "hint"]
