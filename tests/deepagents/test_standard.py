"""LangChain's own tests of sandboxes (`langchain-tests`), all of them, for each backend."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_sandbox.deepagents import (
    CloudSandboxBackend,
    DockerSandboxBackend,
    FilesystemSandboxBackend,
    StateSandboxBackend,
)
from langchain_tests.integration_tests import SandboxIntegrationTests

from harness import Server


class TestCloud(SandboxIntegrationTests):
    @pytest.fixture(scope="class")
    def sandbox(self, server: Server) -> Iterator[CloudSandboxBackend]:
        with CloudSandboxBackend(base_url=server.url, user_id="standard") as backend:
            yield backend


class TestDocker(SandboxIntegrationTests):
    """By the names of Docker, on the kind that needs none."""

    @pytest.fixture(scope="class")
    def sandbox(self, server: Server) -> Iterator[DockerSandboxBackend]:
        with DockerSandboxBackend(
            memory_limit="512m", cpu_quota=50000, kind="process", base_url=server.url, user_id="standard"
        ) as backend:
            yield backend


class TestState(SandboxIntegrationTests):
    @pytest.fixture(scope="class")
    def sandbox(self, server: Server, in_graph: Callable[[Callable[[], Any]], Any]) -> Any:
        return in_graph(lambda: StateSandboxBackend(None, base_url=server.url, user_id="standard"))

    @pytest.fixture(autouse=True)
    def tidy(self, sandbox: Any, sandbox_test_root: str) -> Iterator[None]:
        """The state goes to a sandbox and back with each command: files of tests that are over would make that slow."""
        yield
        sandbox.delete(sandbox_test_root)


class TestFilesystemVirtual(SandboxIntegrationTests):
    sandbox_root_dir = "/workspace/test_sandbox_ops"

    @pytest.fixture(scope="class")
    def sandbox(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesystemSandboxBackend]:
        with FilesystemSandboxBackend(tmp_path_factory.mktemp("root"), virtual_mode=True) as backend:
            yield backend


class TestFilesystemHost(SandboxIntegrationTests):
    """The host's own paths."""

    sandbox_root_dir = f"{tempfile.gettempdir()}/csb-standard-{os.getpid()}/ops"

    @pytest.fixture(scope="class")
    def sandbox(self) -> Iterator[FilesystemSandboxBackend]:
        root = os.path.dirname(self.sandbox_root_dir)
        with FilesystemSandboxBackend(root, virtual_mode=False) as backend:
            yield backend
        shutil.rmtree(root)


def test_there_are_as_many_as_we_say() -> None:
    tests = [name for name, _ in inspect.getmembers(SandboxIntegrationTests) if name.startswith("test_")]
    assert len(tests) == 86


def test_the_differences_are_of_tests_that_exist() -> None:
    folder = Path(__file__).parent
    rules = tomllib.loads((folder / "differences.toml").read_text())["rule"]
    ours = "".join(file.read_text() for file in folder.glob("test_*.py"))
    for rule in rules:
        assert all(hasattr(SandboxIntegrationTests, test) for test in rule["tests"])
        assert f"def {rule['instead']}(" in ours
