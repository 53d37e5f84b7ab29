"""Accounts, roles, invites, tokens: who gets in, how far, and for how long."""

import logging
import re
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from app import accounts
from app.accounts import TRIES
from app.cli import cli
from app.main import create_app
from app.models import Account, ApiToken, Invite, LoginFailure, Project, now
from app.roles import SOLO, Viewer, role_needed
from app.security import host_allowed, make_login_link
from app.settings import Settings
from tests.app.members import PASSWORD, browser, member
from tests.app.test_security import every_route

HTML = {"Accept": "text/html"}


@pytest.fixture
def other(sessions: sessionmaker[Session]) -> Project:
    with sessions.begin() as session:
        made = Project(slug="other", name="Other")
        session.add(made)
    return made


def log_in(client: TestClient, name: str, password: str = PASSWORD):
    return client.post("/login", data={"name": name, "password": password})


# Roles


@pytest.mark.parametrize("role", ["curator", "annotator"])
def test_no_route_of_another_project_opens(app, sessions, settings, project, other, role):
    client = member(app, sessions, settings, "mia", role, project)
    for method, path in every_route(app, slug="other"):
        if path.startswith("/projects/other"):
            answer = client.request(method, path)
            assert answer.status_code in (403, 404) and "Other" not in answer.text, (method, path)
    assert "Other" not in client.get("/projects").text


def test_an_annotator_reaches_only_the_review(app, sessions, settings, project):
    client = member(app, sessions, settings, "ann", "annotator", project)
    reached = {
        (method, path) for method, path in every_route(app, slug="medicine")
        if not path.startswith(("/login", "/logout", "/static", "/openapi.json")) and client.request(method, path).status_code != 403
    }  # fmt: skip
    beside = {path for _, path in reached if not path.startswith("/projects/medicine/documents/")}
    assert beside == {
        "/",
        "/projects",
        "/account",
        "/account/password",
        "/health",
        "/projects/medicine/review",
    }


def test_only_admins_govern_the_team(app, sessions, settings, project):
    client = member(app, sessions, settings, "cur", "curator", project)
    for method, path in every_route(app):
        if path.startswith("/team"):
            assert client.request(method, path).status_code == 403, (method, path)
    assert client.get("/projects/medicine/corpus").status_code == 200


def test_a_new_route_is_closed_to_annotators():
    assert role_needed("GET", "/projects/{slug}/whatever") == "curator"
    assert role_needed("GET", "/projects/{slug}/documents/{document_id}/new") == "annotator"
    assert role_needed("POST", "/team/anything") == "admin"


def test_whoever_makes_a_project_is_a_member_of_it(app, sessions, settings, project):
    client = member(app, sessions, settings, "cur", "curator")
    assert client.get("/projects/medicine").status_code == 404
    assert client.post("/projects", data={"name": "Virology"}).headers["location"] == "/projects/virology"
    assert client.get("/projects/virology").status_code == 200


def test_a_job_of_another_project_is_not_there(app, client, sessions, settings, project, other):
    client.post("/projects/medicine/corpus", data={"family": "f", "side": "forget"}, files={"file": ("a.txt", b"text")})
    assert client.get("/jobs/1").status_code == 200
    stranger = member(app, sessions, settings, "cur", "curator", other)
    assert stranger.get("/jobs/1").status_code == 404 == stranger.post("/jobs/1/cancel").status_code


# Passwords


def test_a_password_logs_in_and_a_wrong_one_does_not(app, anonymous, sessions, settings, project):
    member(app, sessions, settings, "ann", "annotator", project)
    assert "password" in anonymous.get("/login").text
    assert log_in(anonymous, "ann", "wrong").status_code == 403
    assert log_in(anonymous, "nobody").status_code == 403
    assert log_in(anonymous, "ann").status_code == 303
    assert anonymous.get("/projects/medicine/review").status_code == 200


def test_the_eleventh_guess_is_429_and_others_are_unaffected(app, anonymous, sessions, settings, monkeypatch):
    member(app, sessions, settings, "ann", "annotator")
    member(app, sessions, settings, "bob", "annotator")
    monkeypatch.setattr(accounts, "hasher", lambda: type("", (), {"verify": lambda s, p, h: p == PASSWORD})())
    monkeypatch.setattr(accounts, "_nobodys", lambda: "")
    assert [log_in(anonymous, "ann", f"guess {i}").status_code for i in range(TRIES)] == [403] * TRIES
    assert log_in(anonymous, "ann").status_code == 429  # even the right one
    assert log_in(browser(app), "bob").status_code == 303
    with sessions.begin() as session:
        past = now() - timedelta(minutes=accounts.TRY_MINUTES, seconds=1)
        session.execute(update(LoginFailure).values(created_at=past))
    assert log_in(anonymous, "ann").status_code == 303


def test_a_changed_password_ends_other_sessions_and_tokens_at_once(app, sessions, settings, project):
    here, there = member(app, sessions, settings, "cur", "curator", project), browser(app)
    log_in(there, "cur")
    made = re.search(r"ts_[\w-]+", here.post("/account/tokens", data={"name": "x", "scope": "read"}).text)
    assert made
    script = TestClient(app, base_url="http://127.0.0.1:8765", headers={"Authorization": f"Bearer {made[0]}"})
    assert [c.get("/projects/medicine").status_code for c in (here, there, script)] == [200, 200, 200]
    refused = here.post("/account/password", data={"old": "wrong", "new": "another long one"})
    assert refused.status_code == 422 and there.get("/projects").status_code == 200
    assert here.post("/account/password", data={"old": PASSWORD, "new": "another long one"}).status_code == 303
    assert [c.get("/projects/medicine").status_code for c in (here, there, script)] == [200, 401, 401]


def test_a_closed_account_is_out_by_the_next_request(app, client, sessions, settings, project):
    ann = member(app, sessions, settings, "ann", "annotator", project)
    assert ann.get("/projects/medicine/review").status_code == 200
    client.post("/team/accounts/1/close")
    assert ann.get("/projects/medicine/review").status_code == 401
    assert log_in(browser(app), "ann").status_code == 403


def test_the_last_admin_stays(app, client, sessions, settings):
    member(app, sessions, settings, "ada", "admin")
    assert client.post("/team/accounts/1/close").status_code == 422
    assert client.post("/team/accounts/1", data={"role": "curator"}).status_code == 422
    member(app, sessions, settings, "bea", "admin")
    assert client.post("/team/accounts/1/close").status_code == 303


def test_no_password_or_token_is_stored_or_logged(app, client, sessions, settings, caplog):
    caplog.set_level(logging.DEBUG)
    ada = member(app, sessions, settings, "ada", "admin")
    token = re.search(r"ts_[\w-]+", ada.post("/account/tokens", data={"name": "x", "scope": "read"}).text)
    link = re.search(
        r"/login/invite/([\w-]+)", client.post("/team/invites", data={"name": "bob", "role": "curator"}).text
    )
    assert token and link
    log_in(browser(app), "ada")
    with sessions() as session:
        kept = [a.password_hash for a in session.scalars(select(Account))]
        kept += [str(t.token_hash) for t in session.scalars(select(ApiToken))]
        kept += [str(i.token_hash) for i in session.scalars(select(Invite))]
    assert kept[0].startswith("$argon2id$")
    for secret in (PASSWORD, token[0], link[1]):
        assert not any(secret in value for value in [*kept, caplog.text.replace(f"/login/invite/{link[1]}", "")])


# Invites


def test_an_invite_makes_one_account_with_its_role_and_projects(app, client, anonymous, sessions, project, other):
    page = client.post("/team/invites", data={"name": "bob", "role": "curator", "projects": [project.id]})
    path = re.search(r"/login/invite/[\w-]+", page.text)
    assert path
    assert "bob" in anonymous.get(path[0]).text  # looking does not spend it
    assert anonymous.post(path[0], data={"password": "short"}).status_code == 422
    assert anonymous.post(path[0], data={"password": PASSWORD}).status_code == 303
    assert anonymous.get("/projects/medicine").status_code == 200
    assert anonymous.get("/projects/other").status_code == 404
    late = browser(app)
    assert late.get(path[0]).status_code == 403 == late.post(path[0], data={"password": PASSWORD}).status_code


def test_a_withdrawn_expired_or_replaced_invite_is_refused(app, client, anonymous, sessions):
    def invited() -> str:
        found = re.search(r"/login/invite/[\w-]+", client.post("/team/invites", data={"name": "bob"}).text)
        assert found
        return found[0]

    first, second = invited(), invited()
    assert anonymous.get(first).status_code == 403 and anonymous.get(second).status_code == 200
    client.post("/team/invites/withdraw", data={"name": "bob"})
    assert anonymous.post(second, data={"password": PASSWORD}).status_code == 403
    third = invited()
    with sessions.begin() as session:
        session.execute(update(Invite).values(expires_at=now() - timedelta(seconds=1)))
    assert anonymous.post(third, data={"password": PASSWORD}).status_code == 403


def test_a_reset_link_sets_a_new_password(app, client, sessions, settings):
    ann = member(app, sessions, settings, "ann", "annotator")
    link = re.search(r"/login/invite/[\w-]+", client.post("/team/accounts/1/reset").text)
    assert link and ann.get("/projects").status_code == 200
    assert browser(app).post(link[0], data={"password": "a brand new password"}).status_code == 303
    assert ann.get("/projects").status_code == 401
    assert log_in(browser(app), "ann", "a brand new password").status_code == 303


@pytest.mark.parametrize("name", ["", "owner", "a b", "../x", "demo", "demo-a", "x" * 81, "<script>"])
def test_names_that_would_confuse_are_refused(client, project, name):
    answer = client.post("/team/invites", data={"name": name, "role": "annotator"})
    assert answer.status_code == 422 and "<script>" not in answer.text


# Tokens


@pytest.fixture
def script(app, sessions, settings, project):
    """A client that comes with a token of the given scope."""
    member(app, sessions, settings, "cur", "admin", project)

    def make(scope: str, days: int = 1) -> TestClient:
        with sessions.begin() as session:
            token = accounts.make_token(session, Viewer("cur", "admin"), "test", scope, days)
        return TestClient(app, base_url="http://127.0.0.1:8765", headers={"Authorization": f"Bearer {token}"})

    return make


def test_a_read_token_reads_and_a_write_token_writes(script):
    reading, writing = script("read"), script("write")
    assert reading.get("/projects/medicine/gold.jsonl").status_code == 200
    assert reading.post("/projects/medicine/definition", data={"includes": "x"}).status_code == 403
    assert (
        writing.post("/projects/medicine/definition", data={"includes": "x"}, follow_redirects=False).status_code == 303
    )


def test_a_token_cannot_make_further_credentials(script):
    client = script("write")
    assert client.post("/account/tokens", data={"name": "y"}).status_code == 403
    assert client.post("/team/invites", data={"name": "eve", "role": "admin"}).status_code == 403


def test_an_expired_or_revoked_token_is_refused(script, sessions):
    client, expired = script("read"), script("read")
    with sessions.begin() as session:
        session.execute(update(ApiToken).where(ApiToken.id == 2).values(expires_at=now() - timedelta(seconds=1)))
    assert (client.get("/projects").status_code, expired.get("/projects").status_code) == (200, 401)
    with sessions.begin() as session:
        assert accounts.revoke_token(session, "cur", 1)
    assert client.get("/projects").status_code == 401


def test_a_token_beside_a_cookie_does_not_switch_off_the_origin_check(client, project):
    headers = {"Authorization": "Bearer x", "Sec-Fetch-Site": "cross-site"}
    assert client.post("/projects/medicine/definition", data={"includes": "x"}, headers=headers).status_code == 403


def test_solo_mode_makes_no_tokens(sessions):
    with sessions.begin() as session, pytest.raises(ValueError, match="solo"):
        accounts.make_token(session, SOLO, "x", "read", 1)


# Letting other machines in


@pytest.fixture
def open_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"host": "0.0.0.0", "allowed_hosts": ["label.test"], "insecure_http": True})


def test_other_machines_are_let_in_only_with_hosts_tls_and_an_admin(settings, open_settings, sessions, app):
    with pytest.raises(ValueError, match=r"ALLOWED_HOSTS.*TLS_CERT"):
        create_app(settings.model_copy(update={"host": "0.0.0.0"}))
    with pytest.raises(ValueError, match="TLS_CERT"):
        create_app(open_settings.model_copy(update={"insecure_http": False}))
    with pytest.raises(ValueError, match="account add NAME --role admin"):
        create_app(open_settings)
    member(app, sessions, settings, "ada", "admin")
    create_app(open_settings)


def test_a_team_server_answers_to_its_names_and_not_to_the_owner(app, client, sessions, settings, open_settings):
    member(app, sessions, settings, "ada", "admin")
    with sessions.begin() as session:
        link = make_login_link(session, settings)
    team = create_app(open_settings)
    outside = TestClient(team, base_url="http://label.test:8765", headers={"Origin": "http://label.test:8765"})
    assert outside.get(link).status_code == 403
    outside.cookies = client.cookies
    assert outside.get("/projects").status_code == 401
    outside.cookies.clear()
    assert log_in(outside, "ada").status_code == 200 and "Projects" in outside.get("/projects", headers=HTML).text
    assert outside.get("/projects", headers={"Host": "evil.test"}).status_code == 421
    assert not host_allowed("0.0.0.0:8765", open_settings)


def test_the_first_admin_is_made_at_the_terminal(settings, sessions, monkeypatch):
    monkeypatch.setattr("app.cli_accounts.settings", lambda: settings)
    monkeypatch.setenv("TOKENSIEVE_PASSWORD", PASSWORD)
    assert CliRunner().invoke(cli, ["account", "add", "ada", "--role", "admin"]).exit_code == 0
    assert CliRunner().invoke(cli, ["account", "list"]).output == "ada\tadmin\topen\n"
    assert CliRunner().invoke(cli, ["account", "password", "ada"]).exit_code == 0
    assert CliRunner().invoke(cli, ["account", "add", "ada"]).exit_code != 0
