"""Two programs that are nothing but sockets, each run as `sockets.py sink PORT` or `sockets.py relay PORT TARGET`.

`sink` is an upstream that reads uploads and forgets them. `relay` moves bytes between two sockets, with neither TLS nor
HTTP: what the kernel takes for that is the least that any proxy costs. With buffers of 1 MiB Python's own part is a few
microseconds for each of them, below one per cent.
"""
import re
import selectors
import socket
import sys
import threading

MIB = 1 << 20
END = b"0\r\n\r\n"


def sink(connection):
    """Answers uploads until the client leaves."""
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
            # No chunk of random bytes is taken for the last one but once in 10^12 reads.
            tail = bytes(rest[-len(END):])
            while tail != END:
                count = connection.recv_into(buffer)
                if not count:
                    return
                tail = (tail + bytes(view[max(0, count - len(END)):count]))[-len(END):]
        connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        head = b""


def relay(client, target):
    """Moves what comes on either side to the other one, until one of them ends."""
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
                pass  # a client that has gone

    listener = socket.create_server(("127.0.0.1", int(port)), backlog=512)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
