"""From a configuration to a run folder: `load_config`, `train`."""
