"""`python -m etcdlock`."""

from etcdlock.cli import main

main()
