"""The wing of who may come in, and who no longer."""
