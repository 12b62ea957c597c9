"""What a store must do, on an etcd in containers: the very tests of tests/contract, in another world."""

from __future__ import annotations

import pytest

from tests.contract import test_store_contract, test_watch_contract

pytestmark = pytest.mark.timeout(400)  # the first test also waits for the images

for module in (test_store_contract, test_watch_contract):
    globals().update({name: test for name, test in vars(module).items() if name.startswith("test_")})
