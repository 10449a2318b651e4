"""watch.yml → Settings: keys, units, defaults and bounds, and every problem with its line."""
