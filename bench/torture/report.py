"""What a scenario found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """Figures for people, and what should not have happened."""

    figures: dict[str, object] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """A line for each; none, if the server did what it promises."""

    def expect(self, held: bool, otherwise: str) -> None:
        """Note `otherwise` as a failure unless `held`."""
        if not held:
            self.failures.append(otherwise)
