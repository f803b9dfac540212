"""The models by kind and name: loading, watching, replacing, unloading, closing."""

from modelserver.engine.catalogue.entries import Entry, Loaded, State, Version
from modelserver.engine.catalogue.registry import Registry

__all__ = ["Entry", "Loaded", "Registry", "State", "Version"]
