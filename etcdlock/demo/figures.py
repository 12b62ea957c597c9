"""What the demo measured, as numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Figures:
    """Milliseconds and counts; None where the story did not get so far. `owners` are those on the disk, in order."""

    stopped_after_cut_ms: int | None = None
    stopped_before_takeover_ms: int | None = None
    takeover_after_cut_ms: int | None = None
    takeover_after_power_loss_ms: int | None = None
    rejoined_after_ms: int | None = None
    longest_pause_while_rejoining_ms: int | None = None
    records: int | None = None
    owners: list[str] = field(default_factory=list)

    def in_words(self) -> list[str]:
        """The figures that are known, one sentence each."""
        sentences = (
            (self.stopped_before_takeover_ms, "A's guest was stopped {:,} ms before B could be given its locks"),
            (self.takeover_after_cut_ms, "B's guest ran {:,} ms after A was cut off, and nobody had to lift a finger"),
            (self.takeover_after_power_loss_ms, "A's guest ran {:,} ms after B had lost its power"),
            (self.rejoined_after_ms, "A was back {:,} ms after its session had been revoked; its guest never stopped"),
            (self.longest_pause_while_rejoining_ms, "{:,} ms was the longest pause in that guest's writing meanwhile"),
            (self.records, "{:,} records are on the disk, each within its owner's time"),
        )
        return [sentence.format(number) for number, sentence in sentences if number is not None]


def milliseconds(seconds: float, /) -> int:
    """Seconds as they are shown."""
    return round(seconds * 1000)
