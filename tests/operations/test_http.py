"""The server in its thread: pages, tokens, and ports that are taken."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from stream.errors import PolytempoError
from stream.operations.http import HttpServer, Page, json_page
from stream.operations.listen import Listen, Token
from stream.operations.probe import ask, main

LOCAL = Listen("127.0.0.1", 0)
TOKEN = Token("a-token-of-sixteen-characters")


def broken(_accept: str) -> Page:
    raise RuntimeError("cannot")


PAGES = {
    "/well": lambda _: json_page({"well": True}, public=True),
    "/ill": lambda _: json_page({"because": "of that"}, status=503, public=True),
    "/private": lambda accept: Page(accept.encode(), content_type="text/plain; charset=utf-8"),
    "/broken": broken,
}


@pytest.fixture(params=[None, TOKEN], ids=["open", "token"])
def server(request: pytest.FixtureRequest) -> Iterator[HttpServer]:
    server = HttpServer(LOCAL, PAGES, request.param)
    server.start()
    yield server
    server.stop()


def test_pages_are_computed_for_those_who_may_see_them(server: HttpServer) -> None:
    assert ask(f"{server.url}/well", TOKEN) == (200, '{"well": true}')
    assert ask(f"{server.url}/ill", TOKEN) == (503, '{"because": "of that"}')
    assert ask(f"{server.url}/nothing", TOKEN)[0] == 404


def test_without_the_token_public_pages_say_their_status_and_no_more() -> None:
    server = HttpServer(LOCAL, PAGES, TOKEN)
    server.start()
    try:
        assert ask(f"{server.url}/well") == (200, "")
        assert ask(f"{server.url}/ill") == (503, "")
        assert ask(f"{server.url}/private") == (401, "")
        assert ask(f"{server.url}/broken") == (401, "")
    finally:
        server.stop()


def test_a_page_that_cannot_be_made_is_an_error_without_its_details(server: HttpServer) -> None:
    status, body = ask(f"{server.url}/broken", TOKEN)
    assert status == 500
    assert "cannot" not in body
    assert ask(f"{server.url}/well", TOKEN)[0] == 200, "it goes on"


def test_only_reading_is_allowed(server: HttpServer) -> None:
    request = urllib.request.Request(f"{server.url}/well", data=b"x" * 10, method="POST")  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=5)  # noqa: S310
    with error.value:
        assert error.value.code == 405


def test_it_answers_while_the_thread_that_started_it_is_busy(server: HttpServer) -> None:
    """And is gone at once when it is stopped."""
    url = f"{server.url}/well"
    assert ask(url, TOKEN)[0] == 200
    began_s = time.monotonic()
    server.stop()
    assert time.monotonic() - began_s < 5
    assert ask(url, TOKEN)[0] == 0
    server.stop()


def test_a_port_that_is_taken_is_said_so(server: HttpServer) -> None:
    second = HttpServer(server.listen, PAGES)
    with pytest.raises(PolytempoError, match=r"nothing can listen on 127.0.0.1:\d+.*--http"):
        second.start()
    second.stop()


def test_the_probe_exits_as_health_checks_want(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTEMPO_HTTP_TOKEN", TOKEN.secret)
    assert main([f"{server.url}/well"]) == 0
    assert main([f"{server.url}/ill"]) == 1
    assert main(["http://127.0.0.1:1/well"]) == 1
    assert main(["file:///etc/hostname"]) == 1
    assert main([]) == 1
