"""A cluster of the tests' own (crates/testkit), and a server that makes sandboxes in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import kube_cluster
import pytest

from harness import Server

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
