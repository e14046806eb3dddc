"""Two programs without TLS: `sockets.py sink PORT` and `sockets.py relay PORT TARGET`.

`sink` is an upstream that reads uploads and discards them. `relay` copies bytes between two sockets without HTTP: its
processor time in the kernel is a lower bound for every proxy. Python adds a few microseconds for each buffer of 1 MiB, less
than one per cent.
"""
import re
import selectors
import socket
import sys
import threading

MIB = 1 << 20
END = b"0\r\n\r\n"


def sink(connection):
    """Responds to uploads until the client closes the connection."""
    buffer = bytearray(MIB)
    view = memoryview(buffer)
    head = b""
    while True:
        while b"\r\n\r\n" not in head:
            count = connection.recv_into(buffer)
            if not count:
                return
            head += view[:count]
        fields, _, rest = head.partition(b"\r\n\r\n")
        fields = fields.lower()
        if b"100-continue" in fields:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", fields)
        if length:
            left = int(length[1]) - len(rest)
            while left > 0:
                count = connection.recv_into(buffer, min(left, MIB))
                if not count:
                    return
                left -= count
        elif b"transfer-encoding" in fields:
            # Random bytes look like the last chunk in one of 10^12 reads.
            tail = bytes(rest[-len(END):])
            while tail != END:
                count = connection.recv_into(buffer)
                if not count:
                    return
                tail = (tail + bytes(view[max(0, count - len(END)):count]))[-len(END):]
        connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        head = b""


def relay(client, target):
    """Copies bytes between two sockets in both directions until one of them is closed."""
    buffer = bytearray(MIB)
    view = memoryview(buffer)
    with socket.create_connection(("127.0.0.1", target)) as upstream, selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ, upstream)
        ready.register(upstream, selectors.EVENT_READ, client)
        while True:
            for key, _ in ready.select():
                count = key.fileobj.recv_into(buffer)
                if not count:
                    return
                key.data.sendall(view[:count])


def main():
    what, port, *target = sys.argv[1:]

    def serve(connection):
        with connection:
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sink(connection) if what == "sink" else relay(connection, int(target[0]))
            except OSError:
                pass  # the client has closed the connection

    listener = socket.create_server(("127.0.0.1", int(port)), backlog=512)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
