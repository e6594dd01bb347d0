"""Whom the dashboard serves."""

import pytest
from werkzeug.test import Client

from tests.dashboard_fixtures import ASKING, LiveSearch, ask, client_of, running

pytest_plugins = ["dashboard_fixtures"]

TOKEN = "s3cret & more"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**ASKING, "Origin": "http://evil.example"},
        {**ASKING, "Origin": "http://127.0.0.1:9999"},
        {**ASKING, "Origin": "null"},
        {**ASKING, "Sec-Fetch-Site": "cross-site"},
        {**ASKING, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_cannot_stop_anything(headers: dict[str, str], client: Client, search: LiveSearch) -> None:
    with running(search):
        ask(client, "/experiments/0/stop", expected=403, method="POST", json={"trial": "00002"}, headers=headers)
        assert not search.folder.trial("00002").stop_request.exists()
        ours = {**ASKING, "Origin": "http://127.0.0.1:8266", "Sec-Fetch-Site": "same-origin"}
        ask(client, "/experiments/0/stop", method="POST", json={"trial": "00002"}, headers=ours)


@pytest.mark.parametrize("host", ["127.0.0.1:8266", "localhost:9000", "[::1]:8266", "LOCALHOST", "localhost."])
def test_loopback_names_are_served_also_through_a_forwarded_port(host: str, client: Client) -> None:
    ask(client, "/experiments/0/version", base_url="http://127.0.0.1", headers={"Host": host})


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8266", "localhost.evil", "", "192.168.0.3"])
@pytest.mark.parametrize("path", ["/", "/experiments/0/", "/dashboard", "/api/studies", "/nothing"])
def test_other_names_are_refused_everywhere(host: str, path: str, client: Client) -> None:
    ask(client, path, expected=403, headers={"Host": host})


def test_with_a_token_every_request_needs_it(search: LiveSearch) -> None:
    client = client_of(search.folder.path, token=TOKEN, host="0.0.0.0")
    paths = ("/", "/experiments/0/", "/experiments/0/update", "/assets/x/page.js", "/dashboard", "/api/studies", "/x")
    for path in paths:
        ask(client, path, expected=401)
        ask(client, path, expected=401, headers={"Authorization": "Bearer wrong"})
        ask(client, path, expected=401, headers={"Cookie": "langsearch_8266=wrong"})
        ask(client, path, expected=401, query_string={"token": "wrong"})
    ask(client, "/experiments/0/stop", expected=401, method="POST", json={"trial": None}, headers=ASKING)
    ask(client, "/experiments/0/update", headers={"Authorization": f"Bearer {TOKEN}"})


def test_the_first_visit_moves_the_token_from_the_address_into_a_cookie(search: LiveSearch) -> None:
    client = client_of(search.folder.path, token=TOKEN, host="0.0.0.0")
    answer = ask(client, "/compare/", expected=303, query_string={"token": TOKEN, "with": "0"})
    assert answer.location == "/compare/?with=0"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert "s3cret" not in cookie
    ask(client, "/experiments/0/")
    ask(client, "/api/studies")
    path = {"PATH_INFO": "//evil.example/"}
    other = ask(client, "/", expected=303, query_string={"token": TOKEN}, environ_overrides=path)
    assert other.location == "/evil.example/", "it never leads elsewhere"
    with running(search):
        ask(client, "/experiments/0/stop", expected=403, method="POST", json={"trial": None})
        ask(client, "/experiments/0/stop", method="POST", json={"trial": None}, headers=ASKING)


def test_every_answer_has_a_policy_and_is_not_kept(client: Client) -> None:
    for path, expected in (("/experiments/0/", 200), ("/experiments/0/update", 200), ("/x", 404)):
        headers = ask(client, path, expected=expected).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
