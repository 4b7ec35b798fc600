"""Measurements; each module answers one question."""
