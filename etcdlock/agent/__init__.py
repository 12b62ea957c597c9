"""The programs that keep a session and the locks of its guests; all on ports, none on a real clock, store or process."""
