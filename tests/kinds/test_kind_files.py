"""Files in every kind of sandbox: by name, in bulk, and under names that want out."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from cloud_sandbox import Sandbox
from ways import Way

from harness import Api, refused

MIB = 1 << 20
SIZE = (1024 if os.environ.get("CSB_FULL") else 64) * MIB


class Files:
    """The files of one sandbox, with plain requests."""

    def __init__(self, api: Api, box: str) -> None:
        self.api, self.box = api, box

    def __call__(self, method: str, path: str, what: str = "files", **options: object):  # type: ignore[no-untyped-def]
        params = {"path": path, **options.pop("params", {})}  # type: ignore[dict-item]
        return self.api(method, f"/sandboxes/{self.box}/{what}", params=params, **options)


def test_files_are_written_read_in_part_and_appended_to(box: str, ann: Api) -> None:
    files = Files(ann, box)
    data = bytes(range(256)) * 40
    written = files("PUT", "/workspace/a/b/data", content=data, params={"mode": "640"}).json()
    assert (written["size"], written["mode"], written["uid"]) == (len(data), "0640", 1000)
    assert files("GET", "/workspace/a/b/data").content == data
    assert files("GET", "/workspace/a/b/data", params={"offset": 300, "length": 5}).content == data[300:305]
    files("PUT", "/workspace/a/b/data", content=b"more", params={"append": "true"})
    assert files("GET", "/workspace/a/b/data").content == data + b"more"
    done = ann.run(box, "tail -c 4 a/b/data; id -u; echo from inside > made")
    assert done["stdout"] == "more1000\n"
    assert files("GET", "/workspace/made").content == b"from inside\n"


def test_files_are_listed_looked_at_moved_and_removed(box: str, ann: Api) -> None:
    files = Files(ann, box)
    for name in ("one", "sub/two", "sub/three"):
        files("PUT", f"/workspace/{name}", content=name.encode())
    listed = files("GET", "/workspace", "files/list", params={"recursive": "true"}).json()["items"]
    assert {one["path"] for one in listed} == {
        "/workspace/one",
        "/workspace/sub",
        "/workspace/sub/two",
        "/workspace/sub/three",
    }
    assert files("GET", "/workspace/sub", "files/stat").json()["kind"] == "directory"
    move = {"from": "/workspace/one", "to": "/workspace/sub/one"}
    assert ann("POST", f"/sandboxes/{box}/files/move", json=move).status_code == 200
    refused(files("GET", "/workspace/one"), 404, "file_not_found")
    refused(files("DELETE", "/workspace/sub"), 409, "not_empty")
    assert files("DELETE", "/workspace/sub", params={"recursive": "true"}).status_code == 204
    assert files("GET", "/workspace", "files/list").json()["items"] == []
    refused(files("GET", "/workspace"), 409, "is_directory")
    refused(files("PUT", "/etc/made-by-a-user", content=b"x"), 403, "permission_denied")


def pieces(digest: hashlib._Hash) -> Iterator[bytes]:
    block = os.urandom(MIB)
    for i in range(SIZE // MIB):
        piece = i.to_bytes(8, "little") + block[8:]
        digest.update(piece)
        yield piece


def test_a_large_file_is_streamed_in_and_out(way: Way, ann: Api) -> None:
    class Source:
        digest = hashlib.sha256()
        made = pieces(digest)

        def read(self, size: int = -1) -> bytes:
            return next(self.made, b"")

    room = f"{SIZE // MIB + 256}Mi"
    request = way.request(resources=way.limits(memory=room, disk=f"{SIZE // MIB + 16}Mi"))
    with Sandbox.create(way.server.url, token=ann.token, **request) as sandbox:
        before = way.server.rss()
        assert sandbox.write_file("/workspace/big", Source()).size == SIZE  # type: ignore[arg-type]
        assert sandbox.run_command(["sha256sum", "/workspace/big"]).stdout.split()[0] == Source.digest.hexdigest()
        digest = hashlib.sha256()
        for piece in sandbox.iter_file("/workspace/big"):
            digest.update(piece)
        assert digest.digest() == Source.digest.digest()
        # Buffers on the way, not the file.
        assert way.server.rss() - before < 32 * MIB


def test_no_name_leads_out_of_the_sandbox(box: str, ann: Api, tmp_path: Path) -> None:
    files = Files(ann, box)
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    tmp_path.chmod(0o755)
    secret.chmod(0o666)
    ann.run(box, f"ln -s {secret} file; ln -s {tmp_path} dir; ln -s /etc/passwd passwd; ln -s ../../../../../../.. up")
    ann.run(box, f"ln -s /proc/1/root{secret} magic; ln -s loop loop")
    for name in ("file", "dir/secret", f"up{secret}", "magic", "loop"):
        answer = files("GET", f"/workspace/{name}")
        assert answer.status_code >= 400 and "of the host" not in answer.text, name
        assert files("PUT", f"/workspace/{name}", content=b"overwritten", params={"append": "true"}).status_code < 500
    for path in (str(secret), f"/proc/self/root{secret}", f"/proc/1/root{secret}", f"/proc/1/cwd{secret}"):
        assert "of the host" not in files("GET", path).text
    # There is a passwd, and it is the sandbox's.
    assert files("GET", "/workspace/passwd").content == ann.run(box, "cat /etc/passwd")["stdout"].encode()
    for path in ("/workspace/../etc/passwd", "workspace/a", "/workspace/a\0b", "/" + "a" * 5000):
        refused(files("GET", path), 400, "invalid_path")
    assert secret.read_text() == "of the host"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["secret"]


def test_directories_go_in_and_out_as_archives(box: str, ann: Api) -> None:
    files = Files(ann, box)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in (("top", b"1"), ("deep/er/file", b"x" * 70_000)):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "top"
        tar.addfile(link)
    headers = {"Content-Type": "application/x-tar"}
    put = files("PUT", "/workspace/tree", "archive", content=packed.getvalue(), headers=headers)
    assert put.status_code == 200, put.text
    assert put.json()["bytes"] == 70_001
    assert ann.run(box, "cat tree/link; wc -c < tree/deep/er/file")["stdout"].split() == ["170000"]
    got = files("GET", "/workspace/tree", "archive")
    with tarfile.open(fileobj=io.BytesIO(got.content)) as tar:
        names = {name.removeprefix("./").rstrip("/") for name in tar.getnames()} - {"", "."}
        assert {"top", "deep", "deep/er", "deep/er/file", "link"} <= names


def test_an_archive_cannot_write_outside_its_directory(box: str, ann: Api) -> None:
    files = Files(ann, box)
    for name, link in (("../../tmp/out", ""), ("/tmp/out", ""), ("into/out", "/tmp")):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            if link:
                info = tarfile.TarInfo("into")
                info.type, info.linkname = tarfile.SYMTYPE, link
                tar.addfile(info)
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"out"))
        headers = {"Content-Type": "application/x-tar"}
        files("PUT", "/workspace/tree", "archive", content=packed.getvalue(), headers=headers)
        assert ann.run(box, "ls /tmp/out")["exit_code"] != 0, name
        ann.run(box, "rm -rf tree")
