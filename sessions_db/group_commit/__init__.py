"""Group commit: appends that would wait for each other are stored together, by one statement.

An append whose lane is free goes alone, like any other operation. The others wait in the lane. When it becomes free,
whoever has waited longest stores all that wait, and each gets an answer of its own. Nobody waits for a group to fill.
"""
