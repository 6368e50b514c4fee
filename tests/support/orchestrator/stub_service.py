"""A service for tests of what starts services: as small as a process that answers can be.

Run as a script: the port, then how it behaves: `ready`, `unready` (answers 503 until SIGUSR1),
`stubborn` (ready, and deaf to SIGTERM), `broken` (says why on stderr, and ends with code 3). It
says "started" first.
"""

from __future__ import annotations

import http.server
import signal
import sys


class _Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main(port: int, behaviour: str) -> None:
    """Serve until a signal."""
    if behaviour == "unready":
        _Answers.status = 503
        signal.signal(signal.SIGUSR1, lambda *_: setattr(_Answers, "status", 200))
    sys.stdout.write("started\n")
    sys.stdout.flush()
    if behaviour == "broken":
        sys.stderr.write("there is no database\n")
        raise SystemExit(3)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    http.server.HTTPServer(("127.0.0.1", port), _Answers).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
