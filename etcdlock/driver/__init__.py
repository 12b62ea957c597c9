"""The lock manager for programs that manage virtual machines: synchronous, thread-safe, typed. See docs/DRIVER.md.

    from etcdlock.driver import Capability, DomainId, LockManager, load

    with load("agent", require={Capability.MIGRATION}) as driver:
        lock = LockManager(driver, DomainId(uuid, "vm1"))
        lock.register("/dev/san/vm1")
        qemu = lock.start(["qemu-system-x86_64", …])
"""

from etcdlock.driver.loading import Loaded, available, load
from etcdlock.driver.manager import LockManager
from etcdlock.driver.plugin import API_VERSION, Capability, Driver, Lock, Opening
from etcdlock.driver.reservation import Reservation
from etcdlock.driver.wanted import ResourceKind
from etcdlock.errors import EtcdlockError
from etcdlock.model import DomainId, LockState, Mode, Owner, Resource

__all__ = [
    "API_VERSION",
    "Capability",
    "DomainId",
    "Driver",
    "EtcdlockError",
    "Loaded",
    "Lock",
    "LockManager",
    "LockState",
    "Mode",
    "Opening",
    "Owner",
    "Reservation",
    "Resource",
    "ResourceKind",
    "available",
    "load",
]
