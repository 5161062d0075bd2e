"""The kernel's outbox with what an operator of effects asks of it: the dead ones by name, and since when a message was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from buttress.kernel.outbox import Message, SqlOutbox
from buttress.kernel.store import Tx

_LOST = "SELECT lane FROM buttress_outbox WHERE stream = ? AND epoch = ? AND seq = ?"


class EffectOutbox(SqlOutbox):
    """``lost_until`` says when the lease of a lost holder ended, for the messages that ``take`` returned last."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lost_until: dict[tuple[str, int, int], float] = {}

    def take(self, limit: int, lease_s: float, streams: Sequence[str] | None = None) -> list[Message]:
        """As the kernel's; notes which of them a former holder never settled."""
        self.lost_until = {}
        return super().take(limit, lease_s, streams)

    def _hold(self, tx: Tx, row: Sequence[Any], until: float) -> Message:  # type: ignore[override]  # static in the kernel
        stream, epoch, seq, *_, held_until = row
        if held_until > 0:
            self.lost_until[stream, epoch, seq] = held_until
        return SqlOutbox._hold(tx, row, until)
