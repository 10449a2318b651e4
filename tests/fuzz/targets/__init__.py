"""One file a target. Each has one `TARGET`; `fuzz.finding.targets` finds it by its name."""
