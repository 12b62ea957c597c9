"""`etcdlock demo`: the promises of etcdlock, acted out by real processes on this machine and judged from outside."""
