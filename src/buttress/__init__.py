"""Buttress: forty parts for problems that break in production, each with a proof that you can rerun."""

__version__ = "0.1.0"
