"""Locks for virtual machines and their disks, kept in etcd, proven before they are believed.

Importing this package does nothing but name its version; every part is imported where it is used.
"""

__version__ = "0.1.0"
