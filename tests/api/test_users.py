"""Who may do what: forged and expired tokens, roles, and another user's objects, which do not exist for you."""

from __future__ import annotations

import time

import httpx
import pytest

from harness import Api, Server, jwt, refused

HOUR = 3600


def claims(**changes: object) -> dict[str, object]:
    now = int(time.time())
    return {"sub": "ann", "user_id": "ann", "role": "user", "iat": now, "exp": now + HOUR, **changes}


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Basic YW5uOmFubg=="},
        {"X-API-Key": "csb_" + "0" * 64},
        {"X-API-Key": "nonsense"},
        {"X-API-Key": ""},
    ],
)
def test_without_a_good_credential_nothing_is_answered(server: Server, header: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/api/v1/sandboxes"),
        ("POST", "/api/v1/sandboxes"),
        ("GET", "/api/v1/sandboxes/sb-aaaaaaaaaaaaaaaaaaaa"),
        ("POST", "/api/v1/execute"),
        ("GET", "/api/v1/sessions"),
        ("GET", "/api/v1/templates"),
        ("GET", "/api/v1/sandbox/stats"),
        ("GET", "/api/v1/files?sandbox_id=x&path=/"),
    ):
        answer = httpx.request(method, server.url + path, headers=header)
        refused(answer, 401, "unauthorized")
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("header", [{"X-API-Key": "csb_" + "0" * 64}, {"Authorization": "Bearer a.b.c"}, {}])
def test_who_has_no_good_credential_may_not_try_without_end(header: dict[str, str]) -> None:
    server = Server(CSB_RATE_PER_SECOND="1", CSB_RATE_BURST="5", POOL_MIN_SIZE="0")
    try:
        api = server.api("ann")
        # Of this host, figures need no credential.
        for path in ("/api/v1/sandboxes", "/metrics") if header else ("/api/v1/sandboxes",):
            with httpx.Client(base_url=server.url, headers=header) as anybody:
                answers = {answer.status_code: answer for answer in (anybody.get(path) for _ in range(60))}
            assert set(answers) <= {401, 429}
            refused(answers[429], 429, "rate_limited")
            assert int(answers[429].headers["retry-after"]) >= 1
        # Whoever has one is not held up.
        assert api("GET", "/sandboxes").status_code == 200
        api.close()
    finally:
        server.stop()


def test_forged_tokens_are_refused(server: Server, api: Api) -> None:
    head, body, mac = api.token.split(".")
    tampered = {
        "another secret": jwt(claims(), secret="x" * 32),
        "the known default": jwt(claims(), secret="cloud-sandbox-secret"),
        "no algorithm": jwt(claims(), algorithm="none"),
        "another algorithm": jwt(claims(), algorithm="HS512"),
        "no signature": f"{head}.{body}.",
        "a cut signature": f"{head}.{body}.{mac[:-4]}",
        "two parts": f"{head}.{body}",
        "another body": f"{head}.{jwt(claims(user_id='bob')).split('.')[1]}.{mac}",
        "a bare admin": jwt({"role": "admin"}),
    }
    for what, token in tampered.items():
        answer = httpx.get(f"{server.url}/api/v1/sandboxes", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, what
        refused(answer, 401, "unauthorized")


def test_an_expired_token_is_named_as_such() -> None:
    server = Server(CSB_TOKEN_TTL="1s", POOL_MIN_SIZE="0")
    try:
        api = server.api()
        assert api("GET", "/sandboxes").status_code == 200
        deadline = time.monotonic() + 30
        while (answer := api("GET", "/sandboxes")).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        refused(answer, 401, "token_expired")
        api.http.close()
    finally:
        server.stop()


def test_a_caller_does_not_choose_its_role(server: Server) -> None:
    url = f"{server.url}/api/v1/auth/token"
    refused(httpx.post(url, json={"user_id": "eve", "role": "admin"}), 403, "role_denied")
    for body in ({"role": "root"}, {"user_id": 7}, {"user_id": "a" * 1000}, {"user_id": "a\0b"}, {"user": "x"}):
        refused(httpx.post(url, json=body), 400, "invalid_request")
    assert httpx.post(url, json={}).json()["role"] == "user"
    assert httpx.post(url).json()["role"] == "user"


def test_without_dev_a_token_needs_a_key() -> None:
    server = Server(dev=False, POOL_MIN_SIZE="0")
    try:
        answer = httpx.post(f"{server.url}/api/v1/auth/token", json={"user_id": "ann"})
        refused(answer, 401, "unauthorized")
        assert httpx.get(f"{server.url}/health").json() == {"service": "gateway", "status": "ok"}
    finally:
        server.stop()


def test_a_web_page_cannot_use_a_developers_server(server: Server) -> None:
    """A page in the developer's browser can reach loopback; DNS rebinding makes it look like our own origin."""
    url = f"{server.url}/api/v1/auth/token"
    answer = httpx.post(url, json={}, headers={"Host": "evil.example", "Origin": "http://evil.example"})
    assert answer.status_code in (401, 403)
    answer = httpx.post(url, json={}, headers={"Origin": "http://evil.example"})
    assert answer.status_code in (401, 403) or "access-control-allow-origin" not in answer.headers


def calls(sandbox: str, exec_id: str) -> list[tuple[str, str, dict[str, object]]]:
    """Every call of the API that names a sandbox."""
    at = f"/sandboxes/{sandbox}"
    run = f"{at}/execs/{exec_id}"
    tar = {"content": bytes(1024), "headers": {"Content-Type": "application/x-tar"}}
    return [
        ("GET", at, {}),
        ("PATCH", at, {"json": {"resources": {"pids": 64}}}),
        ("POST", f"{at}/pause", {}),
        ("POST", f"{at}/resume", {}),
        ("GET", f"{at}/stats", {}),
        ("POST", f"{at}/execs", {"json": {"command": "touch /workspace/by-bob"}}),
        ("POST", f"{at}/execs", {"json": {"command": "true"}, "headers": {"Accept": "text/event-stream"}}),
        ("POST", f"{at}/run-code", {"json": {"code": "open('/workspace/by-bob', 'w')"}}),
        ("GET", f"{at}/execs", {}),
        ("GET", run, {}),
        ("GET", f"{run}/result", {}),
        ("GET", f"{run}/output", {}),
        ("POST", f"{run}/stdin", {"content": b"by bob\n"}),
        ("POST", f"{run}/signal", {"json": {"signal": "KILL"}}),
        ("POST", f"{run}/resize", {"json": {"cols": 1, "rows": 1}}),
        ("GET", f"{at}/files?path=/workspace/secret", {}),
        ("PUT", f"{at}/files?path=/workspace/by-bob", {"content": b"x"}),
        ("DELETE", f"{at}/files?path=/workspace/secret", {}),
        ("GET", f"{at}/files/list?path=/workspace", {}),
        ("GET", f"{at}/files/stat?path=/workspace/secret", {}),
        ("POST", f"{at}/files/mkdir", {"json": {"path": "/workspace/by-bob"}}),
        ("POST", f"{at}/files/move", {"json": {"from": "/workspace/secret", "to": "/workspace/by-bob"}}),
        ("GET", f"{at}/archive?path=/workspace", {}),
        ("PUT", f"{at}/archive?path=/workspace", tar),
        ("POST", "/execute", {"json": {"sandbox_id": sandbox, "code": "open('/workspace/by-bob', 'w')"}}),
        ("GET", f"/files?sandbox_id={sandbox}&path=/workspace/secret", {}),
        ("PUT", f"/files?sandbox_id={sandbox}&path=/workspace/by-bob", {"content": b"x"}),
        ("DELETE", f"/files?sandbox_id={sandbox}&path=/workspace/secret", {}),
        ("DELETE", at, {}),
        ("POST", "/sandbox/release", {"json": {"sandbox_id": sandbox}}),
    ]


def test_another_users_sandbox_does_not_exist_for_any_call(api: Api, bob: Api) -> None:
    sandbox = api.create(metadata={"of": "ann"})
    api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/secret", content=b"of ann")
    exec_id = api.start(sandbox, "cat", stdin=True)
    absent = "sb-" + "a" * 20
    for (method, path, options), (_, absent_path, absent_options) in zip(
        calls(sandbox, exec_id), calls(absent, exec_id)
    ):
        answer = bob(method, path, **options)
        message = refused(answer, 404, "sandbox_not_found")
        # Nothing tells an object of someone else from one that never was.
        same = bob(method, absent_path, **absent_options)
        assert refused(same, 404, "sandbox_not_found") == message.replace(sandbox, absent), (method, path)
    assert bob("GET", "/sandboxes").json()["items"] == []
    # And nothing happened to it.
    assert api("GET", f"/sandboxes/{sandbox}/files?path=/workspace/secret").content == b"of ann"
    names = [e["name"] for e in api("GET", f"/sandboxes/{sandbox}/files/list?path=/workspace").json()["items"]]
    assert names == ["secret"]
    state = api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}").json()
    assert state["state"] == "running"
    assert api("GET", f"/sandboxes/{sandbox}").json()["state"] == "running"


def test_another_users_exec_is_not_reached_through_ones_own_sandbox(api: Api, bob: Api) -> None:
    mine, theirs = bob.create(), api.create()
    exec_id = api.start(theirs, "cat", stdin=True)
    for method, path in (("GET", ""), ("GET", "/output"), ("GET", "/result"), ("POST", "/stdin?close=true")):
        refused(bob(method, f"/sandboxes/{mine}/execs/{exec_id}{path}"), 404, "exec_not_found")
    assert api("GET", f"/sandboxes/{theirs}/execs/{exec_id}").json()["state"] == "running"


def test_another_users_session_does_not_exist_for_any_call(api: Api, bob: Api) -> None:
    made = api("POST", "/sessions", json={}).json()
    at = f"/sessions/{made['session_id']}"
    for method, path, body in (
        ("GET", at, None),
        ("POST", f"{at}/pause", None),
        ("POST", f"{at}/resume", None),
        ("POST", f"{at}/execute", {"code": "1"}),
        ("GET", f"{at}/executions/ex-aaaaaaaaaaaaaaaaaaaa", None),
        ("DELETE", at, None),
    ):
        refused(bob(method, path, json=body), 404, "session_not_found")
    assert bob("GET", "/sessions").json()["items"] == []
    assert api("GET", at).json()["state"] == "running"
    assert api("DELETE", at).status_code == 204


def test_an_idempotency_key_belongs_to_its_user(api: Api, bob: Api) -> None:
    key = {"Idempotency-Key": "shared-key"}
    mine = api("POST", "/sandboxes", json={}, headers=key).json()["sandbox_id"]
    theirs = bob("POST", "/sandboxes", json={}, headers=key).json()["sandbox_id"]
    api.made.append(mine)
    bob.made.append(theirs)
    assert mine != theirs
