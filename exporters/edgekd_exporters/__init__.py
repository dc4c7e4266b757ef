"""Exporters that ship with edgekd, one folder per target; they use only the public contract."""
