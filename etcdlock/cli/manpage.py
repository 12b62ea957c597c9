"""How a command explains itself: usage, what it does, its own options, then those that every command has."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

COMMON_PANEL = "Options of every command"
_OWN_PANEL = "Options"


class ManPage(TyperCommand):
    """A command whose usage line is written by hand (its `options_metavar`) and whose arguments the text explains."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line as written; typer would spell the arguments by their types."""
        del ctx
        return [self.options_metavar or ""]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options in two sections, this command's own first."""
        sections: dict[str, list[tuple[str, str]]] = {_OWN_PANEL: [], COMMON_PANEL: []}
        for parameter in self.get_params(ctx):
            _put_in_words(parameter)
            row = parameter.get_help_record(ctx)
            if row is None or parameter.param_type_name != "option":
                continue
            common = getattr(parameter, "rich_help_panel", None) == COMMON_PANEL or parameter.name == "help"
            sections[COMMON_PANEL if common else _OWN_PANEL].append(row)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _put_in_words(parameter: Any) -> None:
    """No Python types and defaults where nothing was written: the help text says what matters."""
    parameter.show_default = False
    if parameter.metavar is None:
        parameter.metavar = str(parameter.name).upper()
