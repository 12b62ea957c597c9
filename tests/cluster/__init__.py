"""A cluster of three etcd members and three hosts in namespaces, faults that are put into it, and judges outside it."""
