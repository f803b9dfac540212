"""The models by name: loading, watching, replacing, unloading and closing them."""

from modelserver.engine.catalogue.entries import Entry, Loaded, Stage, Version
from modelserver.engine.catalogue.registry import Registry

__all__ = ["Entry", "Loaded", "Registry", "Stage", "Version"]
