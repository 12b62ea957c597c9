"""The guard: a small process that stops guests at their deadline, even if everything else of etcdlock hangs or dies.

`rules` decides, `loop` acts, `wire` is what is said over its socket, `program` how it is started; `instant` and `table`
read the kernel's clocks and its table of processes, `search` finds marked processes, and `gate` is what a guest's
process runs until it may start.
All of them use the standard library only, so that the guard starts without site-packages and stays small.
"""
