"""For each piece that comes, however it was cut: 354 if it begins with DATA, else 250. What came is in its output."""

import socketserver


class Session(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220 __DOMAIN__ ESMTP\r\n")
        while piece := self.request.recv(65536):
            print(f"Received from {self.client_address[0]}:{self.client_address[1]}: {piece!r}")
            self.request.sendall(b"354 \r\n" if piece[:4].upper() == b"DATA" else b"250 \r\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(("127.0.0.1", __PORT__), Session).serve_forever()
