"""Adapters for other formats and frameworks, one a file. The core imports none of them; `transfer` uses one."""
