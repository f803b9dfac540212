"""What every process of the server uses: errors, settings, logs, metrics, messages."""
