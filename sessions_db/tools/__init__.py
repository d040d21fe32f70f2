"""The session tools that a model calls, with the rule of what a caller may see."""
