"""How much of the agent one client, or all of them together, may take up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`idle_seconds` is for one that says nothing, or does not read; `body_seconds` for one that says it slowly."""

    idle_seconds: float = 15.0
    body_seconds: float = 10.0
    largest_head: int = 16 * 1024
    largest_body: int = 64 * 1024
    most_acting: int = 1024
    most_reading: int = 64
