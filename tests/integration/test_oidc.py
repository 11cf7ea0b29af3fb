"""Signing in with an identity provider: over real HTTP with one that checks what a conforming one checks, and lies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

from chexnode.ledger.ledger import Ledger
from chexnode.ledger.users import User
from chexnode.settings.oidc import OidcSettings
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.roles import Role
from support.identity_provider import CLIENT, SECRET, Provider, identity_provider
from support.ledgers import opened
from support.webs import serving


@dataclass
class Place:
    """A web role and its provider."""

    url: str
    ledger: Ledger
    provider: Provider


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A web role that knows nobody but by its provider."""
    folder = tmp_path_factory.mktemp("oidc")
    url = f"sqlite:///{folder}/chexnode.db"
    with identity_provider() as provider, opened(url) as ledger:
        oidc = {
            "issuer": provider.issuer,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "name": "the hospital",
            "viewers": ["staff"],
            "operators": ["radiographers"],
            "admins": ["pacs-admins"],
        }
        settings = Settings(node={"data_dir": f"{folder}/var"}, database={"url": url}, oidc=oidc)
        with serving(settings, ledger) as client:
            provider.redirect_uris = {f"{client.base_url}/console/oidc/back".replace("//console", "/console")}
            yield Place(str(client.base_url), ledger, provider)


@pytest.fixture
def provider(place: Place) -> Iterator[Provider]:
    """It, telling the truth again afterwards."""
    kept = place.provider
    before = (kept.claims, kept.key)
    yield kept
    kept.claims, kept.key = before
    kept.lies, kept.in_token, kept.published, kept.algorithm = {}, True, None, "RS256"


@pytest.fixture
def browser(place: Place) -> Iterator[httpx.Client]:
    """A browser without a session."""
    with httpx.Client(base_url=place.url, headers={"accept": "text/html"}, timeout=30) as client:
        yield client


def known(provider: Provider, sub: str, name: str, *groups: str) -> None:
    provider.claims = {"sub": sub, "preferred_username": name, "groups": list(groups)}


def sign_in(browser: httpx.Client, to: str = "/console") -> httpx.Response:
    """By following every link of it; the answer is where it ends."""
    return browser.get("/console/oidc/start", params={"to": to}, follow_redirects=True)


def users(place: Place) -> dict[str, Role]:
    return {user.name: user.role for user in place.ledger.users.list()}


def test_nobody_gets_in_before_the_first_has_signed_in(place: Place, browser: httpx.Client) -> None:
    turned = browser.get("/console/queue")
    assert turned.headers["location"] == "/console/sign-in?to=/console/queue"
    assert browser.get("/api/jobs").status_code == 401
    page = browser.get(turned.headers["location"]).text
    assert "Sign in with the hospital" in page
    assert "/console/oidc/start?to=/console/queue" in page
    assert 'type="password"' not in page, "nobody has one"


def test_who_signs_in_has_the_role_of_their_groups(place: Place, provider: Provider, browser: httpx.Client) -> None:
    known(provider, "1", "olga", "staff", "radiographers")
    page = sign_in(browser, "/console/queue")
    assert (page.status_code, page.url.path) == (200, "/console/queue")
    assert "olga" in page.text
    assert users(place)["olga"] is Role.OPERATOR
    assert browser.get("/api/jobs").status_code == 200, "an operator's session reads"
    csrf = page.text.partition('name="csrf" value="')[2].partition('"')[0]
    browser.post("/console/sign-out", data={"csrf": csrf})
    assert browser.get("/console").status_code == 303
    known(provider, "1", "olga", "pacs-admins")
    assert sign_in(browser).status_code == 200
    assert users(place)["olga"] is Role.ADMIN, "the groups of today count"
    assert place.ledger.users.recognise("olga", "") is None
    with pytest.raises(Usage, match="identity provider"):
        place.ledger.users.change("olga", password="a password that is long")


def test_claims_may_come_from_the_userinfo_endpoint(place: Place, provider: Provider, browser: httpx.Client) -> None:
    known(provider, "2", "nadia", "staff")
    provider.in_token = False
    assert sign_in(browser).status_code == 200
    assert users(place)["nadia"] is Role.VIEWER
    assert "/me" in provider.asked


def test_the_question_is_protected(place: Place, browser: httpx.Client) -> None:
    asked = browser.get("/console/oidc/start")
    query = {name: values[0] for name, values in parse_qs(urlsplit(asked.headers["location"]).query).items()}
    assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
    assert min(len(query[name]) for name in ("state", "nonce", "code_challenge")) >= 43
    assert "openid" in query["scope"].split()
    again = parse_qs(urlsplit(browser.get("/console/oidc/start").headers["location"]).query)
    assert all(again[name][0] != query[name] for name in ("state", "nonce", "code_challenge"))
    cookie = asked.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


LIES: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://elsewhere.example"},
    "another client": {"aud": "somebody-else"},
    "of many clients": {"aud": [CLIENT, "somebody-else"], "azp": "somebody-else"},
    "over": {"exp": int(time.time()) - 120},
    "without an end": {"exp": None},
    "of another sign-in": {"nonce": "of-another"},
    "of no sign-in": {"nonce": None},
    "of another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    "of nobody": {"sub": None},
    "not before tomorrow": {"nbf": int(time.time()) + 86_400},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_is_not_for_this_sign_in_is_refused(
    place: Place, provider: Provider, browser: httpx.Client, lie: str
) -> None:
    known(provider, "3", "eve", "pacs-admins")
    provider.lies = LIES[lie]
    page = sign_in(browser)
    assert page.status_code == 401, page.text
    assert "chexnode-session" not in browser.cookies
    assert browser.get("/console").status_code == 303
    assert "eve" not in users(place)


def test_a_token_that_the_provider_has_not_signed_is_refused(
    place: Place, provider: Provider, browser: httpx.Client
) -> None:
    known(provider, "3", "eve", "pacs-admins")
    provider.algorithm = "none"
    assert sign_in(browser).status_code == 401
    provider.algorithm, truth = "RS256", provider.key
    for kid in (truth.kid, "unknown"):
        provider.published, provider.key = [truth], RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
        assert sign_in(browser).status_code == 401
    assert "eve" not in users(place)


def test_new_keys_of_the_provider_are_taken_up(place: Place, provider: Provider, browser: httpx.Client) -> None:
    known(provider, "4", "ines", "staff")
    assert sign_in(browser).status_code == 200
    provider.key = RSAKey.generate_key(2048, {"kid": "2", "use": "sig"})
    browser.cookies.clear()
    assert sign_in(browser).status_code == 200


def test_an_answer_to_nobodys_question_is_refused(place: Place, provider: Provider, browser: httpx.Client) -> None:
    known(provider, "5", "mallory", "pacs-admins")
    asked = browser.get("/console/oidc/start").headers["location"]
    back = httpx.get(asked).headers["location"]
    with httpx.Client(headers={"accept": "text/html"}) as other:
        assert other.get(back).status_code == 401, "another browser's: it has not asked"
    assert browser.get(back.replace("state=", "state=x")).status_code == 401
    assert browser.get(back.partition("?")[0]).status_code == 401
    assert browser.get(back.replace("iss=http", "iss=https")).status_code == 401
    assert browser.get(back).status_code == 303
    assert browser.get(back).status_code == 401, "each answer is good once"
    denied = parse_qs(urlsplit(browser.get("/console/oidc/start").headers["location"]).query)["state"][0]
    page = browser.get(f"/console/oidc/back?state={denied}&error=access_denied<script>")
    assert page.status_code == 401
    assert "<script>" not in page.text.partition("<main")[2]


def test_nobody_takes_over_another(place: Place, provider: Provider, browser: httpx.Client) -> None:
    place.ledger.users.add("anna", Role.VIEWER, "a password that is long")
    known(provider, "6", "anna", "pacs-admins")
    assert sign_in(browser).status_code == 403
    assert users(place)["anna"] is Role.VIEWER
    known(provider, "7", "olga2", "staff")
    sign_in(browser)
    known(provider, "7", "anna", "staff")
    browser.cookies.clear()
    assert "olga2" in sign_in(browser).text, "who is known keeps the name"
    place.ledger.users.remove("anna")


@pytest.mark.parametrize("groups", [[], ["others"], "staffroom", {"staff": 1}, None, 7])
def test_without_a_role_nobody_gets_in(place: Place, provider: Provider, browser: httpx.Client, groups: object) -> None:
    provider.claims = {"sub": "8", "preferred_username": "tom", "groups": groups}
    assert sign_in(browser).status_code == 403
    assert "tom" not in users(place)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\u202eb", 7, None])
def test_a_name_is_a_name(place: Place, provider: Provider, browser: httpx.Client, name: object) -> None:
    provider.claims = {"sub": "9", "preferred_username": name, "groups": ["staff"]}
    assert sign_in(browser).status_code == 401


def test_nobody_is_sent_elsewhere_afterwards(place: Place, provider: Provider, browser: httpx.Client) -> None:
    known(provider, "1", "olga", "staff")
    for to in ("//evil.example", "https://evil.example/console", "/api/jobs"):
        browser.cookies.clear()
        assert sign_in(browser, to).url.path == "/console"


def test_a_provider_that_is_away_or_another_is_said(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chexnode.db"
    with identity_provider() as other, opened(url) as ledger:
        other.issuer = "https://elsewhere.example"
        for issuer in ("http://127.0.0.1:9", f"http://127.0.0.1:{other.port}"):
            oidc = {"issuer": issuer, "client_id": CLIENT, "admins": ["x"]}
            settings = Settings(node={"data_dir": f"{tmp_path}/var"}, database={"url": url}, oidc=oidc)
            with serving(settings, ledger) as client:
                page = client.get("/console/oidc/start", headers={"accept": "text/html"})
                assert page.status_code == 503
                assert client.get("/console").status_code in (303, 401)


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://login.example", "client_id": "x", "admins": ["a"]},
        {"issuer": "https://login.example", "admins": ["a"]},
        {"issuer": "https://login.example", "client_id": "x"},
    ],
)
def test_settings_that_let_nobody_or_everybody_in_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="oidc"):
        OidcSettings(**wrong)


def test_a_user_is_the_providers_by_subject_not_by_name(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/chexnode.db") as ledger:
        first = ledger.users.enter("olga", "https://a 1", Role.VIEWER)
        assert ledger.users.enter("renamed", "https://a 1", Role.ADMIN) == User("olga", Role.ADMIN, first.created_at)
        with pytest.raises(Usage):
            ledger.users.enter("olga", "https://b 1", Role.ADMIN)
        assert [user.name for user in ledger.users.list()] == ["olga"]
        assert not ledger.users.have_passwords()
