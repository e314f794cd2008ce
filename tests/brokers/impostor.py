"""What answers on a port and is not the server that was meant."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

END_S = 30.0  # how long the end of its thread is waited for


@contextmanager
def listening(greeting: bytes | None, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that answers every connection with this and closes it; with None it says nothing. context: it only shakes hands for TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                with suppress(OSError):  # the client may have gone, or refused the certificate
                    if context is not None:
                        held.append(context.wrap_socket(connection, server_side=True))
                    elif greeting is not None:
                        connection.sendall(greeting)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(END_S)
        for connection in held:
            connection.close()
