"""Events for the log: a fixed name and fields, never a sentence that a program would have to parse."""

from __future__ import annotations

import json
import logging

_LOGGER = logging.getLogger("etcdlock")


def note(event: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Log `event` with its fields; both stay readable on the record as `record.event` and `record.fields`."""
    _LOGGER.log(level, "%s", event, extra={"event": event, "fields": fields})


class FieldFormatter(logging.Formatter):
    """`time level event key=value …` on one line, values in JSON where they need quoting."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields = getattr(record, "fields", {})
        shown = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        line = f"{self.formatTime(record)} {record.levelname.lower()} {record.getMessage()}{shown}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and text and not any(c in text for c in ' "=') else json.dumps(text)
