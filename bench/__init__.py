"""Measurements of the hot path; see the targets bench* and soak of the Makefile."""
