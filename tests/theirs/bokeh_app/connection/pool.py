"""A connection that an import opens, to something that echoes: who else has it reads what was meant for us."""

import socket
import threading

here, there = socket.socketpair()
lock = threading.Lock()


def echo() -> None:
    while data := there.recv(100):
        there.sendall(data)


threading.Thread(target=echo, daemon=True).start()
