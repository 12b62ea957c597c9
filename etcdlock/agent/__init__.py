"""The programs that keep a session and the locks of its guests; all on ports, no real clock, store or process."""
