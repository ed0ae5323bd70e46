"""Pages, idempotency keys, rate limits, quotas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import Api, Server, refused


def test_pages_give_every_sandbox_once_also_while_others_are_made(server: Server) -> None:
    api = server.api("pages")
    try:
        made = {api.create() for _ in range(7)}
        seen: list[str] = []
        cursor = None
        while True:
            page = api("GET", "/sandboxes", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            assert len(page["items"]) <= 2
            seen += [item["sandbox_id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
            if len(seen) == 2:
                api.create()
        assert len(seen) == len(set(seen))
        assert made <= set(seen)
        paused = next(iter(made))
        assert api("POST", f"/sandboxes/{paused}/pause").json()["state"] == "paused"
        found = api("GET", "/sandboxes?state=paused").json()["items"]
        assert [item["sandbox_id"] for item in found] == [paused]
    finally:
        api.close()


def test_a_create_under_the_same_key_gives_the_same_sandbox(api: Api) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = api("POST", "/sandboxes", json={"metadata": {"a": "1"}}, headers=key)
    again = api("POST", "/sandboxes", json={"metadata": {"a": "1"}}, headers=key)
    api.made.append(first.json()["sandbox_id"])
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["sandbox_id"] == again.json()["sandbox_id"]
    answer = api("POST", "/sandboxes", json={"metadata": {"a": "2"}}, headers=key)
    refused(answer, 409, "idempotency_conflict")
    assert len(api("GET", "/sandboxes").json()["items"]) == 1


def test_creates_under_one_key_at_once_make_one_sandbox(api: Api) -> None:
    def create(_: int) -> str:
        answer = api("POST", "/sandboxes", json={}, headers={"Idempotency-Key": "k-2"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["sandbox_id"])

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(create, range(16)))
    api.made += ids
    assert len(ids) == 1
    assert len(api("GET", "/sandboxes").json()["items"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 1000, "a\tb"])
def test_keys_that_cannot_be_meant_are_refused(api: Api, key: str) -> None:
    refused(api("POST", "/sandboxes", json={}, headers={"Idempotency-Key": key}), 400, "invalid_request")


def test_a_refused_create_leaves_its_key_free(api: Api) -> None:
    key = {"Idempotency-Key": "k-3"}
    refused(api("POST", "/sandboxes", json={"template": "absent"}, headers=key), 404, "template_not_found")
    made = api("POST", "/sandboxes", json={}, headers=key)
    assert made.status_code == 201, made.text
    api.made.append(made.json()["sandbox_id"])


def test_too_many_requests_are_refused_with_a_time_and_only_for_who_sent_them() -> None:
    server = Server(CSB_RATE_PER_SECOND="1", CSB_RATE_BURST="20", POOL_MIN_SIZE="0")
    try:
        api = server.api("greedy")
        answers = [api("GET", "/sandboxes") for _ in range(40)]
        limited = [a for a in answers if a.status_code == 429]
        assert limited and len(limited) < 40
        refused(limited[-1], 429, "rate_limited")
        assert int(limited[-1].headers["retry-after"]) >= 1
        # Another user, and the health check, are not affected.
        other = server.api("modest")
        assert other("GET", "/sandboxes").status_code == 200
        assert api("GET", "/health").status_code == 200
        api.http.close()
        other.http.close()
    finally:
        server.stop()


def test_a_user_has_no_more_sandboxes_than_allowed() -> None:
    server = Server(CSB_SANDBOXES_PER_USER="2", POOL_MIN_SIZE="0")
    try:
        api = server.api()
        first, _ = api.create(), api.create()
        refused(api("POST", "/sandboxes", json={}), 403, "quota_exceeded")
        assert api("DELETE", f"/sandboxes/{first}").status_code == 204
        api.create()
        api.close()
    finally:
        server.stop()


def test_a_second_release_is_not_an_error_where_the_seed_releases(api: Api) -> None:
    sandbox = api("POST", "/sandbox/acquire").json()["sandbox_id"]
    for _ in range(2):
        answer = api("POST", "/sandbox/release", json={"sandbox_id": sandbox})
        assert (answer.status_code, answer.json()) == (200, {"sandbox_id": sandbox, "released": True})
    refused(api("GET", f"/sandboxes/{sandbox}"), 404, "sandbox_not_found")
