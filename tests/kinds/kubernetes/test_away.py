"""What becomes of pods and of the sessions on them while the cluster is away, and once it is there again."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

from kube_cluster import Cluster

from harness import Api, Server, refused, until

POD = {"sandbox": {"kind": "k8s"}}


def session(ann: Api) -> tuple[str, str]:
    """A new session on a pod, and its sandbox."""
    made = ann("POST", "/sessions", json=POD)
    assert made.status_code == 201, made.text
    return made.json()["session_id"], made.json()["sandbox_id"]


def states(ann: Api) -> dict[str, str]:
    """The state of each sandbox, asked for in a way that is no use of it."""
    return {one["sandbox_id"]: one["state"] for one in ann("GET", "/sandboxes").json()["items"]}


class Way:
    """A way to a cluster that can be taken away and comes back."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        host, port = cluster.url.removeprefix("http://").split(":")
        self.there = (host, int(port))
        self.listener: socket.socket | None = None
        self.open: list[socket.socket] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.up()

    def server(self, **settings: str) -> Server:
        """A server that reaches the cluster by this way alone."""
        config = Path(self.cluster.dir) / f"way-{self.port}.yaml"
        theirs = Path(self.cluster.kubeconfig).read_text()
        config.write_text(theirs.replace(self.cluster.url, f"http://127.0.0.1:{self.port}"))
        return Server(**{**self.cluster.settings(), "KUBECONFIG": str(config), **settings})

    def up(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.serve, args=(self.listener,), daemon=True).start()

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.there)
            self.open += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=ends, daemon=True).start()

    @staticmethod
    def carry(near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(65536):
                far.sendall(data)
        except OSError:
            pass
        for end in (near, far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def down(self) -> None:
        assert self.listener is not None
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for end in self.open:
            end.close()
        self.open.clear()


def test_a_cluster_that_is_away_when_the_server_starts_costs_no_sandbox(cluster: Cluster) -> None:
    way = Way(cluster)
    server = way.server()
    try:
        ann, bob = server.api("ann"), server.api("bob")
        box, doomed = ann.create(**POD), ann.create(**POD)
        reader = ann.start(box, "echo begun; read line; echo got $line; seq 3", stdin=True)
        ann.until_said(box, reader, "begun")
        server.kill()
        way.down()
        server.start()
        listed = {one["sandbox_id"]: one for one in ann("GET", "/sandboxes").json()["items"]}
        assert listed[box]["state"] == "running" and listed[box]["kind"] == "k8s" and doomed in listed
        assert bob("GET", "/sandboxes").json()["items"] == []
        for method, path in [("GET", ""), ("GET", "/stats"), ("POST", "/execs"), ("DELETE", "")]:
            answer = ann(
                method, f"/sandboxes/{box}{path}", **({"json": {"command": "true"}} if path == "/execs" else {})
            )
            assert box in refused(answer, 503, "backend_unavailable")
            assert "there again" in answer.json()["error"]["hint"]
        refused(bob("GET", f"/sandboxes/{box}"), 404, "sandbox_not_found")
        # Other kinds are there, and the comparisons of meanwhile cost nothing.
        assert ann.run(ann.create(), "echo x")["stdout"] == "x\n"
        # One ends while nobody can be asked.
        gone_there = f"/api/v1/namespaces/default/pods/csb-{doomed}"
        assert cluster.http.delete(gone_there, params={"gracePeriodSeconds": 0}).status_code == 200
        time.sleep(2)
        assert ann("GET", f"/sandboxes/{box}").status_code == 503
        way.up()
        deadline = time.monotonic() + 60
        while ann("GET", f"/sandboxes/{box}").status_code != 200:
            assert time.monotonic() < deadline, server.said()
            time.sleep(0.1)
        until(lambda: ann("GET", f"/sandboxes/{doomed}").status_code == 404)
        assert ann("POST", f"/sandboxes/{box}/execs/{reader}/stdin", content=b"it\n").status_code == 204
        done = ann("GET", f"/sandboxes/{box}/execs/{reader}/result?wait=30").json()
        assert (done["stdout"], done["exit_code"]) == ("begun\ngot it\n1\n2\n3\n", 0)
        for one in ann("GET", "/sandboxes").json()["items"]:
            assert ann("DELETE", f"/sandboxes/{one['sandbox_id']}").status_code == 204
        until(lambda: not cluster.objects())
        ann.close()
        bob.close()
    finally:
        server.stop()


def test_a_session_that_ends_while_its_cluster_is_away_leaves_no_pod(cluster: Cluster) -> None:
    way = Way(cluster)
    server = way.server(CSB_RECONCILE_INTERVAL="1s", CSB_SANDBOXES_PER_USER="3")
    try:
        ann = server.api("ann")
        (deleted, first), (kept, second) = session(ann), session(ann)
        brief = ann("POST", "/sessions", json={**POD, "timeout": 8}).json()
        server.kill()
        way.down()
        server.start()
        code = {"language": "bash", "code": "true"}
        for path, body in [("/pause", None), ("/resume", None), ("/execute", code)]:
            answer = ann("POST", f"/sessions/{kept}{path}", json=body)
            refused(answer, 503, "backend_unavailable")
        refused(ann("GET", f"/sessions/{kept}/executions/exec-{'0' * 16}"), 503, "backend_unavailable")
        assert ann("GET", f"/sessions/{kept}").json()["state"] == "running"
        assert ann("DELETE", f"/sessions/{deleted}").status_code == 204
        refused(ann("GET", f"/sessions/{deleted}"), 404, "session_not_found")
        until(lambda: ann("GET", f"/sessions/{brief['session_id']}").json()["state"] == "closed")
        assert states(ann) == {first: "releasing", second: "running", brief["sandbox_id"]: "releasing"}
        # Also by a server that was not there when they were ended.
        server.kill()
        server.start()
        assert states(ann)[first] == "releasing"
        way.up()
        until(lambda: list(states(ann)) == [second], server.said())
        until(lambda: [pod["metadata"]["name"] for pod in cluster.objects()] == [f"csb-{second}"])
        # They count no more.
        for _ in range(2):
            ann.create(**POD)
        assert ann.run(second, "echo here")["stdout"] == "here\n"
        assert ann("DELETE", f"/sessions/{kept}").status_code == 204
        ann.close()
        until(lambda: not cluster.objects())
    finally:
        server.stop()


def test_a_sandbox_is_not_idle_for_as_long_as_its_cluster_is_away(cluster: Cluster) -> None:
    way = Way(cluster)
    server = way.server(CSB_LIFETIME_IDLE="8s")
    try:
        ann = server.api("ann")
        _, box = session(ann)
        server.kill()
        way.down()
        server.start()
        time.sleep(9)
        way.up()
        until(lambda: "a kind answers" in Path(server.log).read_text(), server.said())
        # Those that are idle are looked for every second.
        time.sleep(2.5)
        assert states(ann) == {box: "running"}
        assert ann("GET", f"/sandboxes/{box}").status_code == 200
        ann.close()
    finally:
        server.stop()


def test_who_waits_for_a_sandbox_learns_nothing_of_the_cluster_that_is_away(cluster: Cluster) -> None:
    way = Way(cluster)
    server = way.server()
    try:
        ann = server.api("ann")
        box = ann.create(**POD)
        server.kill()
        way.down()
        server.start()
        message = refused(ann("GET", f"/sandboxes/{box}"), 503, "backend_unavailable")
        assert "k8s" in message and str(way.port) not in message
        # The operator reads it.
        assert f"127.0.0.1:{way.port}" in server.said()
        way.up()
        until(lambda: ann("DELETE", f"/sandboxes/{box}").status_code == 204, server.said())
        ann.close()
    finally:
        server.stop()
