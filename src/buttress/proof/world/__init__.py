"""Simulators that more than one system needs: callees that count effects, and a sender of webhooks."""

from buttress.proof.world.callees import Callee, Callees
from buttress.proof.world.sender import Attempt, Delivery, Sender

__all__ = ["Attempt", "Callee", "Callees", "Delivery", "Sender"]
