"""Plants a fault into a copy of the package's source, made while that is imported; the files stay as they are.

A fault whose text is not there exactly once is an error: then the code has moved on, and the fault must follow it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

PACKAGE = Path(__file__).parents[2] / "etcdlock"


class DoesNotApply(Exception):
    """The text that a fault replaces is not there, or not only there."""


@dataclass(frozen=True)
class Edit:
    """In one module, named without the package, `old` becomes `new`."""

    module: str
    old: str
    new: str

    def applied(self, source: str) -> str:
        """Raises `DoesNotApply`."""
        count = source.count(self.old)
        if count != 1:
            raise DoesNotApply(f"etcdlock.{self.module} has this {count} times, not once:\n{self.old}")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Mutant:
    """A fault by name, the promise that it breaks, and the themes of the schedules in which it shows soonest."""

    name: str
    promise: str
    edits: tuple[Edit, ...]
    themes: tuple[str, ...] = field(default=())

    def sources(self) -> dict[str, str]:
        """Every module that it changes, with its source."""
        changed: dict[str, str] = {}
        for edit in self.edits:
            path = PACKAGE.joinpath(*edit.module.split(".")).with_suffix(".py")
            changed[edit.module] = edit.applied(changed.get(edit.module) or path.read_text(encoding="utf-8"))
        return {f"etcdlock.{module}": source for module, source in changed.items()}


class _Planter(PathFinder):
    """Finds the modules that are changed, and no others."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(  # type: ignore[override]  # one planter for each fault, not one for all
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._sources:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._sources[fullname])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.get_filename(fullname), "exec", dont_inherit=True)


def plant(mutant: Mutant) -> None:
    """From now on the package has it; nothing that it changes may have been imported before."""
    sources = mutant.sources()
    late = sorted(sources.keys() & sys.modules.keys())
    if late:
        raise RuntimeError(f"{mutant.name}: imported before it was planted: {', '.join(late)}")
    sys.meta_path.insert(0, _Planter(sources))
