"""What a scenario found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """Figures for people, and what should not have happened."""

    figures: dict[str, object] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """A line for each; none, if the server did what it promises."""
    missed: list[str] = field(default_factory=list)
    """Failures, too, but of figures: what a busy machine or a short run can cause as well as a bad server."""

    def expect(self, held: bool, otherwise: str) -> None:
        """Note `otherwise` as a failure unless `held`."""
        if not held:
            self.failures.append(otherwise)

    def expect_figure(self, held: bool, otherwise: str) -> None:
        """Note `otherwise` as a figure missed unless `held`."""
        if not held:
            self.missed.append(otherwise)
