"""A vision model server: frozen TensorFlow graphs in a folder, photos in, labels out.

Importing this package imports neither TensorFlow nor Flask.
"""

__version__ = "0.2.0"
