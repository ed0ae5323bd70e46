"""Example 3 with the pool of the SDK: nobody gets what another left. `uvicorn pooled_short:app`"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.agents import FilesystemMiddleware, create_agent, model, tools
from app.backends import DockerSandboxBackend
from cloud_sandbox.deepagents import BackendPool
from fastapi import FastAPI

pool = BackendPool(DockerSandboxBackend, size=10)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Ends all sandboxes when the application does."""
    yield
    await pool.acleanup()


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(message: str) -> Any:
    """Answers in a sandbox that nobody had before."""
    async with pool.ause() as backend:
        agent = create_agent(model, tools=tools, middleware=[FilesystemMiddleware(backend=backend)])
        return await agent.ainvoke({"messages": [{"role": "user", "content": message}]})
