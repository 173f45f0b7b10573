"""The command line's light side: what talks to a server elsewhere, or looks at what one left, without Trio
and without the server.

Importing those takes most of a fifth of a second: too much for a health check every few seconds, or a push in a
shell's loop.
"""
