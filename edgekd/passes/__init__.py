"""Rewrites of a captured program that every target profits from, one per file."""
