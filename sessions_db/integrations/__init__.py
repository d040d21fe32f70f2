"""Adapters for other formats and frameworks, one per file. The core imports none of them; `transfer` uses one."""
