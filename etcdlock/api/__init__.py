"""The agent's API: HTTP over a Unix socket on this host, for programs that manage guests. docs/API.md describes it."""
