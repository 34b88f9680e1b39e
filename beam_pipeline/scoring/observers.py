"""Who hears what happens while chunks are scored."""

from __future__ import annotations

from typing import Protocol

from schemas.records import Outcome


class Observer(Protocol):
    """Hears what happens while a chunk is scored, always in the thread that called the engine."""

    def fetched(self, milliseconds: float) -> None:
        """One image was read."""

    def decoded(self, milliseconds: float) -> None:
        """One image was decoded."""

    def predicted(self, images: int, visual_tokens: int, milliseconds: float) -> None:
        """One micro-batch was scored, by champion or challenger."""

    def finished(self, outcome: Outcome) -> None:
        """One ref has its outcome."""

    def challenged(self, outcome: Outcome) -> None:
        """The challenger, too, came to an outcome for one ref."""

    def adapter_switched(self, milliseconds: float) -> None:
        """Another adapter serves; new chunks had to wait for so long."""

    def adapter_switch_failed(self) -> None:
        """The pointer names something that cannot serve; the adapter in place goes on."""
