"""Python starts with this where it is on the path: the process believes to be on the host that ``AS_HOST`` names."""

import os
import socket

if "AS_HOST" in os.environ:
    socket.gethostname = lambda: os.environ["AS_HOST"]
