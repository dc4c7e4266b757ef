"""Latency, memory, statistics, projection and the regression gate.

Importing this package imports no runtime: what is measured runs in processes of its own.
"""
