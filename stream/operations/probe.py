"""Asks an endpoint from within a container, where no curl is: for health checks.

    python -m stream.operations.probe http://127.0.0.1:9464/ready

exits with 0 if the answer is 200, else with 1, and prints the answer. A token comes from POLYTEMPO_HTTP_TOKEN or
POLYTEMPO_HTTP_TOKEN_FILE, as the worker's own.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from typing import Final

from stream.errors import PolytempoError
from stream.operations.listen import Token, read_token

__all__ = ["ask", "main"]

_TIMEOUT_S: Final = 5.0


def ask(url: str, token: Token | None = None, *, timeout_s: float = _TIMEOUT_S) -> tuple[int, str]:
    """Status and body of a page; status 0, and why, where nobody answers in time."""
    if not url.startswith(("http://", "https://")):
        return 0, f"{url!r} is no address of a page: it begins with http:// or https://"
    request = urllib.request.Request(url)  # noqa: S310 - looked at just above
    if token is not None:
        request.add_header("Authorization", f"Bearer {token.secret}")
    # A proxy in the environment is for the world outside, not for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace").strip()
    except (OSError, ValueError) as error:
        return 0, f"nobody answers at {url}: {error}"


def main(arguments: list[str]) -> int:
    """Print the answer; give the exit code."""
    try:
        (url,) = arguments
        status, body = ask(url, read_token())
    except (PolytempoError, ValueError) as error:
        status, body = 0, str(error)
    print(body or f"status {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
