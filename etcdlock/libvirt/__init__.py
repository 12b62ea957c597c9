"""The virtlockd door: an unmodified libvirt takes its locks through it.

`wire` is what the door is made of: calls in, answers out. It stands on `packet` (where a message ends), `procedure`
(what can be called), `remote_error` (the refusals that libvirt prints) and `xdr` (how values travel). `caller` is who
may ask for what, `reasons` the words of a refusal. All of these are pure: no socket, no clock.

`server` is the door itself; it stands on `connection` (one client), `desk` (from a call to the locks and back),
`sockets` (where to listen), and `locks`, what it asks of the program behind it.
"""
