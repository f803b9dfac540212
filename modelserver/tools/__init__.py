"""Commands for operators: check, import, install and measure models."""
