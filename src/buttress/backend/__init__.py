"""The wing of services that must not lose or double what they were told."""
