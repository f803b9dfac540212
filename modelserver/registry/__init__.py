"""The models by name: loading, watching, replacing, unloading and closing them."""

from modelserver.registry.book import Registry
from modelserver.registry.entries import Entry, Loaded, Stage, Version

__all__ = ["Entry", "Loaded", "Registry", "Stage", "Version"]
