"""Workers that a benchmark runs in place of its own, each with an engine that is named for it."""
