"""Which test proves which capability: with the drivers that declare it, each of its tests is run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

import pytest

from etcdlock.driver import Capability, Driver
from tests.driver.places import DRIVERS

T = TypeVar("T", bound=Callable[..., Any])

PROVED: dict[Capability, dict[str, frozenset[Capability]]] = {}
"""By capability: the tests that prove it, and what they need besides."""


def kind_of(driver: str) -> type[Driver]:
    (point,) = entry_points(group="etcdlock.drivers", name=driver)
    kind: type[Driver] = point.load()
    return kind


def proves(*capabilities: Capability) -> Callable[[T], T]:
    """The test is for drivers that have all of these, and proves the first."""
    drivers = [driver for driver in DRIVERS if kind_of(driver).capabilities.issuperset(capabilities)]

    def mark(test: T) -> T:
        PROVED.setdefault(capabilities[0], {})[test.__name__] = frozenset(capabilities)
        marked: T = pytest.mark.parametrize("driver", drivers)(test)
        return marked

    return mark


all_drivers = pytest.mark.parametrize("driver", DRIVERS)
