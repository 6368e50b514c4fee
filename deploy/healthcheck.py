#!/app/bin/python -IS
"""The health of the service in this container: `healthcheck [PATH [PORT...]]`.

It asks 127.0.0.1 for PATH (/livez) at the first of these ports (8000, 8001 and 8002, the usual ones
of the services) where a process listens. Exits with 0 where the answer is 200, else with 1.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence

PATH = "/livez"
PORTS = ("8000", "8001", "8002")
SECONDS = 4.0
"""Longer than the 2 s within which /readyz answers."""


def complaint(path: str, ports: Sequence[str]) -> str | None:
    """What is wrong with the service; None where it is well."""
    for port in ports:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            said = answer.read(500).decode("utf-8", "replace")
        except ConnectionRefusedError:
            continue
        except (OSError, http.client.HTTPException) as error:
            return f"{path} at port {port}: {error!r}"
        finally:
            connection.close()
        return None if answer.status == 200 else f"{path} at port {port}: {answer.status} {said}"
    return f"no process listens at 127.0.0.1, port {', '.join(ports)}"


if __name__ == "__main__":
    path, *ports = sys.argv[1:] or [PATH]
    sys.exit(complaint(path, ports or PORTS))
