"""Takes and gives back locks through tooz, one for each name on its input; answers with the seconds an acquire took.

Run by the Python that has tooz and etcd3gw. It ends without a word if they are missing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from time import perf_counter


def main(endpoint: str) -> None:
    try:
        coordination = import_module("tooz.coordination")
        import_module("tooz.drivers.etcd3gw")
    except ImportError:
        return
    coordinator = coordination.get_coordinator(f"etcd3+http://{endpoint}", b"bench", timeout=60)
    coordinator.start()
    print("ready", flush=True)
    for name in sys.stdin:
        lock = coordinator.get_lock(name.strip().encode())
        begun = perf_counter()
        taken = lock.acquire(blocking=False)
        seconds = perf_counter() - begun
        if not taken:
            raise RuntimeError(f"tooz did not get {name}")
        lock.release()
        print(seconds, flush=True)
    coordinator.stop()


if __name__ == "__main__":
    main(sys.argv[1])
