"""Sounds in bulk. For now: the verb that classifies files."""
