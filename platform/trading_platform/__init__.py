"""The trading platform: one package a service, a small shared kernel."""

__version__ = "0.1.0"
