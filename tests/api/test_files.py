"""Files: whole content or none, paths that never leave the sandbox, archives that hold nothing back."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from harness import Api, refused

MARK = "a file of the host that no sandbox may see"


def at(sandbox: str, route: str = "", /, **query: object) -> str:
    from urllib.parse import urlencode

    return f"/sandboxes/{sandbox}/files{route}?{urlencode(query)}"


def names(api: Api, sandbox: str, path: str) -> list[str]:
    return [entry["name"] for entry in api("GET", at(sandbox, "/list", path=path)).json()["items"]]


def test_what_is_written_is_read_back_byte_for_byte(home: tuple[Api, str]) -> None:
    api, sandbox = home
    data = bytes(range(256)) * 5000
    made = api("PUT", at(sandbox, path="/workspace/new/dir/f.bin", mode="640"), content=data)
    assert made.status_code == 200, made.text
    entry = made.json()
    assert (entry["size"], entry["mode"], entry["uid"], entry["kind"]) == (len(data), "0640", 1000, "file")
    got = api("GET", at(sandbox, path="/workspace/new/dir/f.bin"))
    assert got.content == data
    assert api("GET", at(sandbox, path="/workspace/new/dir/f.bin", offset=255, length=3)).content == data[255:258]
    assert api("GET", at(sandbox, path="/workspace/new/dir/f.bin", offset=len(data) + 5)).content == b""
    api("PUT", at(sandbox, path="/workspace/new/dir/f.bin", append="true"), content=b"tail")
    assert api("GET", at(sandbox, path="/workspace/new/dir/f.bin", offset=len(data))).content == b"tail"


@pytest.mark.parametrize("name", ["a b", "é🎈", "-rf", "a'b\"c", "a\nb", "%41", "a+b", "~", "con", "x" * 255])
def test_names_are_kept_as_they_are(home: tuple[Api, str], name: str) -> None:
    api, sandbox = home
    path = f"/workspace/names/{name}"
    assert api("PUT", at(sandbox, path=path), content=b"x").status_code == 200
    assert name in names(api, sandbox, "/workspace/names")
    assert api("GET", at(sandbox, path=path)).content == b"x"
    assert api("DELETE", at(sandbox, path=path)).status_code == 204


@pytest.mark.parametrize(
    "path",
    [
        "",
        "relative",
        "./x",
        "/workspace/../etc/passwd",
        "/..",
        "/workspace/..",
        "/a\0b",
        "\0",
        "/" + "x" * 5000,
        "/" + "a/" * 3000,
        "/workspace/" + "x" * 300,
    ],
)
def test_paths_that_cannot_be_meant_are_refused_everywhere(home: tuple[Api, str], path: str) -> None:
    api, sandbox = home
    before = names(api, sandbox, "/workspace")
    answers = [
        api("GET", at(sandbox, path=path)),
        api("PUT", at(sandbox, path=path), content=b"x"),
        api("DELETE", at(sandbox, path=path, recursive="true")),
        api("GET", at(sandbox, "/list", path=path)),
        api("GET", at(sandbox, "/stat", path=path)),
        api("POST", f"/sandboxes/{sandbox}/files/mkdir", json={"path": path}),
        api("POST", f"/sandboxes/{sandbox}/files/move", json={"from": path, "to": "/workspace/moved"}),
        api("POST", f"/sandboxes/{sandbox}/files/move", json={"from": "/workspace", "to": path}),
        api("GET", f"/sandboxes/{sandbox}/archive", params={"path": path}),
        api("GET", "/files", params={"sandbox_id": sandbox, "path": path}),
    ]
    for answer in answers:
        refused(answer, 400, "invalid_path")
    assert names(api, sandbox, "/workspace") == before


def test_errors_name_what_is_wrong_with_a_path(home: tuple[Api, str]) -> None:
    api, sandbox = home
    api("PUT", at(sandbox, path="/workspace/e/f"), content=b"x")
    refused(api("GET", at(sandbox, path="/workspace/absent")), 404, "file_not_found")
    refused(api("GET", at(sandbox, path="/workspace/e/f/g")), 409, "not_directory")
    refused(api("GET", at(sandbox, path="/workspace/e")), 409, "is_directory")
    refused(api("PUT", at(sandbox, path="/workspace/e"), content=b"x"), 409, "is_directory")
    refused(api("GET", at(sandbox, "/list", path="/workspace/e/f")), 409, "not_directory")
    refused(api("DELETE", at(sandbox, path="/workspace/e")), 409, "not_empty")
    refused(api("POST", f"/sandboxes/{sandbox}/files/mkdir", json={"path": "/workspace/e/f"}), 409, "file_exists")
    refused(api("PUT", at(sandbox, path="/usr/bin/evil"), content=b"x"), 403, "permission_denied")
    refused(api("DELETE", at(sandbox, path="/usr/bin/python3")), 403, "permission_denied")
    inside = api("POST", f"/sandboxes/{sandbox}/files/move", json={"from": "/workspace/e", "to": "/workspace/e/f2"})
    assert "inside" in refused(inside, 400, "invalid_path") and "inside" in inside.json()["error"]["hint"]
    api.run(sandbox, "mkfifo /workspace/e/pipe")
    refused(api("GET", at(sandbox, path="/workspace/e/pipe")), 409, "not_regular")
    refused(api("GET", at(sandbox, path="/dev/zero")), 409, "not_regular")
    api.run(sandbox, "ln -s loop /workspace/e/loop")
    assert api("GET", at(sandbox, path="/workspace/e/loop")).status_code in (400, 409, 422)
    api.run(sandbox, "mkdir /workspace/e/shut; chmod 0 /workspace/e/shut")
    refused(api("PUT", at(sandbox, path="/workspace/e/shut/x"), content=b"x"), 403, "permission_denied")


def test_a_user_that_is_not_there_is_named_as_for_a_command(home: tuple[Api, str]) -> None:
    api, sandbox = home
    for method, path, options in (
        ("GET", at(sandbox, path="/etc/passwd", user="nosuch"), {}),
        ("GET", at(sandbox, "/list", path="/tmp", user="nosuch"), {}),
        ("PUT", at(sandbox, path="/tmp/nosuch", user="nosuch"), {"content": b"x"}),
        ("POST", f"/sandboxes/{sandbox}/files/mkdir", {"json": {"path": "/tmp/nosuch", "user": "nosuch"}}),
        ("POST", f"/sandboxes/{sandbox}/execs", {"json": {"command": "true", "user": "nosuch"}}),
    ):
        assert "nosuch" in refused(api(method, path, **options), 422, "bad_user")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(MARK)
    os.chmod(path, 0o644)
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent) != "/" and parent.stat().st_uid == os.getuid():
            os.chmod(parent, parent.stat().st_mode | 0o111)
    return path


def test_links_to_the_host_lead_nowhere(api: Api, secret: Path) -> None:
    sandbox = api.create()
    api.run(sandbox, ["ln", "-s", str(secret), "/workspace/file"])
    api.run(sandbox, ["ln", "-s", str(secret.parent), "/workspace/dir"])
    api.run(sandbox, ["ln", "-s", "/proc/1/root" + str(secret), "/workspace/init"])
    api.run(sandbox, ["ln", "-s", "../" * 40 + str(secret)[1:], "/workspace/up"])
    for name in ("file", f"dir/{secret.name}", "init", "up"):
        got = api("GET", at(sandbox, path=f"/workspace/{name}"))
        assert got.status_code in (403, 404, 409), (name, got.text)
        put = api("PUT", at(sandbox, path=f"/workspace/{name}"), content=b"overwritten")
        assert secret.read_text() == MARK, (name, put.text)
    for path in (str(secret), f"/proc/1/root{secret}", f"/proc/self/root{secret}", f"/proc/self/cwd/../{secret}"):
        assert MARK.encode() not in api("GET", at(sandbox, path=path)).content
        assert MARK not in api.run(sandbox, ["cat", path])["stdout"]
    assert MARK.encode() not in api("GET", f"/sandboxes/{sandbox}/archive", params={"path": "/workspace"}).content
    assert sorted(os.listdir(secret.parent)) == [secret.name]


def test_a_path_that_is_swapped_while_it_is_used_leads_nowhere(api: Api, secret: Path) -> None:
    """A hostile program swaps a directory for a link to the host's as fast as it can."""
    sandbox = api.create()
    swap = f"""
import os
os.makedirs('/workspace/d'); open('/workspace/d/secret', 'w').write('inside')
os.symlink({str(secret.parent)!r}, '/workspace/l')
while True:
    os.rename('/workspace/d', '/workspace/t'); os.rename('/workspace/l', '/workspace/d')
    os.rename('/workspace/d', '/workspace/l'); os.rename('/workspace/t', '/workspace/d')
"""
    api("PUT", at(sandbox, path="/workspace/swap.py"), content=swap.encode())
    api.start(sandbox, ["python3", "/workspace/swap.py"])
    for i in range(150):
        got = api("GET", at(sandbox, path="/workspace/d/secret"))
        assert MARK.encode() not in got.content
        api("PUT", at(sandbox, path="/workspace/d/secret"), content=b"inside")
        api("PUT", at(sandbox, path=f"/workspace/d/new{i % 3}"), content=b"inside")
        api("POST", f"/sandboxes/{sandbox}/files/move", json={"from": "/workspace/d/secret", "to": "/workspace/d/x"})
        api("DELETE", at(sandbox, path="/workspace/d/x", recursive="true"))
        api("POST", f"/sandboxes/{sandbox}/files/mkdir", json={"path": "/workspace/d/made"})
    assert secret.read_text() == MARK
    assert sorted(os.listdir(secret.parent)) == [secret.name]


def test_removal_follows_no_link(api: Api, secret: Path) -> None:
    sandbox = api.create()
    api.run(sandbox, f"mkdir a b; echo x > b/kept; ln -s ../b a/link; ln -s {secret.parent} a/host")
    assert api("DELETE", at(sandbox, path="/workspace/a", recursive="true")).status_code == 204
    assert names(api, sandbox, "/workspace") == ["b"]
    assert names(api, sandbox, "/workspace/b") == ["kept"]
    assert secret.exists()


def test_lists_are_sorted_bounded_and_deep_on_request(api: Api) -> None:
    sandbox = api.create()
    api.run(sandbox, "mkdir -p d/e/f; touch d/e/f/g b a; ln -s a link")
    entries = api("GET", at(sandbox, "/list", path="/workspace")).json()
    assert [(e["name"], e["kind"]) for e in entries["items"]] == [
        ("a", "file"),
        ("b", "file"),
        ("d", "directory"),
        ("link", "symlink"),
    ]
    assert entries["items"][3]["target"] == "a" and entries["truncated"] is False
    deep = api("GET", at(sandbox, "/list", path="/workspace", recursive="true")).json()["items"]
    assert "/workspace/d/e/f/g" in [e["path"] for e in deep]
    two = api("GET", at(sandbox, "/list", path="/workspace", depth=2)).json()["items"]
    assert "/workspace/d/e" in [e["path"] for e in two] and "/workspace/d/e/f" not in [e["path"] for e in two]
    api.run(sandbox, "mkdir many; cd many; seq 3000 | xargs touch")
    cut = api("GET", at(sandbox, "/list", path="/workspace/many", limit=100)).json()
    assert (len(cut["items"]), cut["truncated"]) == (100, True)


def test_names_that_are_not_utf8_are_listed_and_their_directory_can_be_packed(api: Api) -> None:
    sandbox = api.create()
    api.run(sandbox, ["python3", "-c", r"open(b'/workspace/\xff\xfe', 'w').write('x')"])
    assert names(api, sandbox, "/workspace") == ["\ufffd\ufffd"]
    raw = api("GET", f"/sandboxes/{sandbox}/archive", params={"path": "/workspace"}).content
    with tarfile.open(fileobj=io.BytesIO(raw), errors="surrogateescape") as tar:
        assert any(n.encode("utf-8", "surrogateescape").endswith(b"\xff\xfe") for n in tar.getnames())


def test_a_directory_goes_out_and_in_as_an_archive(api: Api) -> None:
    sandbox = api.create()
    api.run(sandbox, "mkdir -p a/b/empty; echo one > a/one; chmod 750 a/one; ln -s ../one a/b/l")
    api.run(sandbox, "head -c 3000000 /dev/urandom > a/b/big")
    sums = "cd /workspace/%s; find . -type f | sort | xargs sha256sum; find . | sort; readlink b/l; stat -c %%a one"
    packed = api("GET", f"/sandboxes/{sandbox}/archive", params={"path": "/workspace/a"})
    assert packed.headers["content-type"] == "application/x-tar"
    made = api(
        "PUT",
        f"/sandboxes/{sandbox}/archive",
        params={"path": "/workspace/copy"},
        content=packed.content,
        headers={"Content-Type": "application/x-tar"},
    )
    assert made.status_code == 200, made.text
    assert made.json()["bytes"] >= 3_000_004
    assert api.run(sandbox, sums % "a")["stdout"] == api.run(sandbox, sums % "copy")["stdout"]


def archive(*members: tuple[str, dict[str, object], bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def linked(name: str, kind: bytes) -> tuple[str, dict[str, object], bytes]:
    return name, {"type": kind, "linkname": "f"}, b""


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (b"", 0),
        (bytes(10240), 0),
        (archive(("f", {}, b"x" * 7), ("g", {}, b"y" * 1000)), 1007),
        # Other names of a file hold no bytes of their own.
        (archive(("f", {}, b"x" * 7), linked("hard", tarfile.LNKTYPE), linked("soft", tarfile.SYMTYPE)), 7),
        # What was written twice was written.
        (archive(("f", {}, b"x" * 7), ("f", {}, b"y" * 5)), 12),
        # The end is where the archive says.
        (archive(("f", {}, b"x" * 7)) + b"more" * 5000, 7),
        (archive(("f", {}, b"x" * 512))[:1024], 512),
    ],
)
def test_the_bytes_of_an_archive_are_those_of_its_files(api: Api, raw: bytes, count: int) -> None:
    sandbox = api.create()
    answer = api("PUT", f"/sandboxes/{sandbox}/archive?path=/workspace/odd", content=raw)
    assert (answer.status_code, answer.json()) == (200, {"bytes": count})


@pytest.mark.parametrize(
    "raw",
    [
        b"no archive at all, but longer than one block of tar".ljust(2048, b"!"),
        archive(("../../evil", {}, b"x")),
        archive(("f", {}, b"x" * 5000))[:2000],
    ],
    ids=["garbage", "up", "cut"],
)
def test_archives_that_may_not_be_unpacked_are_refused(api: Api, raw: bytes) -> None:
    sandbox = api.create()
    answer = api(
        "PUT",
        f"/sandboxes/{sandbox}/archive",
        params={"path": "/workspace/in"},
        content=raw,
        headers={"Content-Type": "application/x-tar"},
    )
    refused(answer, 400, "invalid_archive")
    found = api.run(sandbox, "find / -name evil -not -path '/proc/*' 2>/dev/null; find /workspace -type b")["stdout"]
    assert found == ""


def test_names_and_kinds_that_could_harm_are_made_harmless(api: Api) -> None:
    """A leading `/` is taken off, as tar does; devices are not made; set-user-id means nothing in there."""
    sandbox = api.create()
    device = {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0}
    raw = archive(("/evil", {}, b"x"), ("dev", device, b""), ("su", {"mode": 0o4755}, b"x"))
    api(
        "PUT",
        f"/sandboxes/{sandbox}/archive",
        params={"path": "/workspace/in"},
        content=raw,
        headers={"Content-Type": "application/x-tar"},
    )
    found = api.run(sandbox, "find / -name evil -not -path '/proc/*' 2>/dev/null; find / -xdev -type b 2>/dev/null")
    assert found["stdout"] in ("", "/workspace/in/evil\n")


def test_a_link_in_an_archive_is_not_written_through(api: Api, secret: Path) -> None:
    sandbox = api.create()
    link = {"type": tarfile.SYMTYPE, "linkname": str(secret.parent)}
    raw = archive(("d", link, b""), (f"d/{secret.name}", {}, b"overwritten"))
    api(
        "PUT",
        f"/sandboxes/{sandbox}/archive",
        params={"path": "/workspace/in"},
        content=raw,
        headers={"Content-Type": "application/x-tar"},
    )
    assert secret.read_text() == MARK


def test_an_upload_that_breaks_off_leaves_the_old_content(api: Api) -> None:
    import socket

    sandbox = api.create()
    api("PUT", at(sandbox, path="/workspace/f"), content=b"old")
    with socket.create_connection(("127.0.0.1", api.server.port)) as sock:
        head = (
            f"PUT /api/v1/sandboxes/{sandbox}/files?path=/workspace/f HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {api.token}\r\nContent-Length: 1000000\r\n\r\n"
        )
        sock.sendall(head.encode() + b"new" * 1000)
    import time

    deadline = time.monotonic() + 30
    # The server notices in its own time; at no moment is anything but the old content there.
    while True:
        assert api("GET", at(sandbox, path="/workspace/f")).content == b"old"
        if names(api, sandbox, "/workspace") == ["f"]:
            break
        assert time.monotonic() < deadline, names(api, sandbox, "/workspace")
        time.sleep(0.05)


def test_the_seeds_file_routes_read_write_list_and_remove(api: Api) -> None:
    sandbox = api.create()
    q = {"sandbox_id": sandbox, "path": "/workspace/x.txt"}
    assert api("PUT", "/files", params=q, content=b"hello").json()["size"] == 5
    assert api("GET", "/files", params=q).content == b"hello"
    listed = api("GET", "/files", params={"sandbox_id": sandbox, "path": "/workspace"}).json()
    assert [e["name"] for e in listed["items"]] == ["x.txt"] and listed["truncated"] is False
    assert api("DELETE", "/files", params=q).status_code == 204
    refused(api("GET", "/files", params=q), 404, "file_not_found")
    refused(api("GET", "/files", params={"path": "/workspace"}), 400, "invalid_request")
