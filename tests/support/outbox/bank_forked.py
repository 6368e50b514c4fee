"""A process that is forked after its bank began to run, by `python -m`: it prints what the child is
answered, and then what the parent is."""

import os
import sys

from outbox.errors import InvalidService
from tests.support.http.wsgi_calls import ask, get, signed
from tests.support.outbox.bank import service
from tests.support.outbox.banks import booking


def _tell(who: str) -> None:
    taken = ask(application, signed(booking(f"by the {who}"))).status
    try:
        application.start()
        runs = "runs"
    except InvalidService:
        runs = "refused"
    ready = get(application, "/readyz").status
    sys.stdout.write(f"{who}: {taken} {ready} {runs}\n")
    sys.stdout.flush()
    application.stop()


application = service.wsgi()
if __name__ == "__main__":
    application.start()
    child = os.fork()
    if child == 0:
        try:
            _tell("child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    _tell("parent")
