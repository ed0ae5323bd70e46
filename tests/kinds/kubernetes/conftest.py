"""A cluster of the tests' own (crates/testkit), and a server that makes sandboxes in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import kube_cluster

from harness import Api, Server

FIELDS = "metadata.annotations,spec.nodeSelector"


@pytest.fixture(scope="session")
def cluster() -> Iterator[kube_cluster.Cluster]:
    if os.geteuid() != 0 or not kube_cluster.stand_in().exists():
        pytest.skip("the cluster that stands in for one needs root, and to be built (csb-testkit)")
    cluster = kube_cluster.Cluster("--namespace", "agents", "--runtime-class", "gvisor", "--memory", "3Gi")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def server(cluster: kube_cluster.Cluster) -> Iterator[Server]:
    server = Server(
        **cluster.settings(),
        CSB_K8S_NAMESPACES="agents",
        CSB_K8S_RUNTIME_CLASSES="gvisor,missing",
        CSB_K8S_POD_TEMPLATE_FIELDS=FIELDS,
        CSB_K8S_IMAGES="absent:,csb-",
        CSB_K8S_START_TIMEOUT="30s",
    )
    yield server
    server.stop()


@pytest.fixture
def ann(server: Server) -> Iterator[Api]:
    api = server.api("ann")
    yield api
    api.close()
