"""What a kind cannot do it refuses with the reason, and it says the same here, in the API and in the docs."""

from __future__ import annotations

from typing import Any

from declared import KINDS
from ways import ALWAYS, MUST, Host, Way

from harness import ROOT, Api, refused

CODES = {503: (503, "backend_unavailable"), 404: (404, "resource_not_found")}


def listed(api: Api) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in api("GET", "/kinds").json()["items"]}


def test_the_server_lists_every_kind_and_what_it_declares(host: Host) -> None:
    kinds = listed(host.server("process").api())
    assert set(kinds) == {declared.kind or name for name, declared in KINDS.items()}
    for name, kind in kinds.items():
        assert kind["available"] == (kind["why_not"] is None)
        assert kind["isolation"]
        assert set(kind["cannot"]) == {what for what, can in kind["capabilities"].items() if not can}
        assert set(kind["cannot"]) == KINDS[name].cannot, f"{name}: declared.py and the server differ"
        assert all(kind["cannot"].values())
        # What the tests ask for is what it has.
        assert set(KINDS[name].options()) <= set(kind["options"])
    assert all(kinds[name]["available"] for name in ALWAYS - {"remote"})
    assert set(KINDS) >= MUST, "CSB_KINDS names a kind that there is not"


def test_what_is_not_here_is_refused_with_the_reason_that_is_listed(host: Host) -> None:
    api = host.server("process").api()
    for name, kind in listed(api).items():
        if not kind["available"]:
            answer = api("POST", "/sandboxes", json={"sandbox": {"kind": name}})
            # An engine that may answer later, or a runtime that is not installed, is no lack of the server.
            status, code = CODES.get(answer.status_code, (501, "unsupported"))
            assert kind["why_not"] in refused(answer, status, code)
    refused(api("POST", "/sandboxes", json={"sandbox": {"kind": "chroot"}}), 400, "invalid_request")


def test_what_it_declares_that_it_cannot_it_refuses_with_the_reason(way: Way, ann: Api) -> None:
    reasons = listed(ann)[way.kind]["cannot"]
    box = way.create(ann)
    tries = {
        "pause": lambda: ann("POST", f"/sandboxes/{box}/pause"),
        "live_limits": lambda: ann("PATCH", f"/sandboxes/{box}", json={"resources": {"pids": 99}}),
        "pty": lambda: ann("POST", f"/sandboxes/{box}/execs", json={"command": "true", "pty": {"cols": 9, "rows": 9}}),
        "disk_limit": lambda: ann("POST", "/sandboxes", json=way.request(resources={"disk": "20Mi"})),
        "pids_limit": lambda: ann("POST", "/sandboxes", json=way.request(resources={"pids": 99})),
        "disk": lambda: ann("POST", "/sandboxes", json=way.request(storage="disk")),
    }
    # What cannot be tried without killing the server is tried by the test of it.
    for capability in set(reasons) - {"adopt"}:
        assert reasons[capability] in refused(tries[capability](), 501, "unsupported")


def test_options_of_other_kinds_are_refused_by_name(way: Way, ann: Api) -> None:
    kinds = listed(ann)
    values = {"enforceBoundary": True, "memoryOnly": True, "allowPaths": ["/usr"], "podTemplate": {}, "resources": {}}
    for option in {option for kind in kinds.values() for option in kind["options"]} - set(kinds[way.kind]["options"]):
        body = way.request()
        body["sandbox"][option] = values.get(option, "x")
        message = refused(ann("POST", "/sandboxes", json=body), 400, "invalid_request")
        assert f"`{option}`" in message and f"`{way.kind}`" in message


def test_the_page_about_kinds_says_what_the_server_says(host: Host) -> None:
    page = (ROOT / "docs" / "concepts" / "kinds.md").read_text()
    rows = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 2 and cells[0].strip("`") in KINDS:
            rows.setdefault(cells[0].strip("`"), cells)
    for name, kind in listed(host.server("process").api()).items():
        assert rows[name][1] == kind["isolation"], name
        lacking = "; ".join(f"`{what}`: {why}" for what, why in kind["cannot"].items()) or "—"
        assert rows[name][2] == lacking, name
        for option in kind["options"]:
            assert f"`{option}`" in page
