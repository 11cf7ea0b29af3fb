"""Decoding of strangers' pixels in child processes with limits: one that crashes or overruns takes nothing along."""
