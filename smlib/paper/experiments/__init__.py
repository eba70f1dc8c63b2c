"""One module per paper item: frozen presets and a `run`."""
