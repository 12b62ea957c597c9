"""Seeded simulation of whole clusters: real agents and guard rules, fake etcd and guests, judges that stand outside."""
