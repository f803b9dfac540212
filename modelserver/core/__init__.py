"""Used by every process of the server: errors, settings, logs, metrics, messages."""
