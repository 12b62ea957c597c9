"""The virtlockd door: an unmodified libvirt takes its locks through it.

`wire` is what the door is made of: calls in, answers out. It stands on `packet` (where a message ends), `procedure`
(what can be called), `remote_error` (the refusals that libvirt prints) and `xdr` (how values travel). All of these are
pure: no socket, no clock.
"""
