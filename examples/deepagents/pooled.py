"""Example 3: a pool of backends. `uvicorn pooled:app`. With `BackendPool` of the SDK it is shorter: see pooled_short.py."""

# What the example takes for granted.
from app.agents import FilesystemMiddleware, create_agent, model, tools
from app.backends import DockerSandboxBackend
from fastapi import FastAPI

app = FastAPI()

# The example.
from asyncio import Queue


class DockerBackendPool:
    """A pool of Docker backends, which are used again"""

    def __init__(self, size: int = 10):
        self.pool: Queue[DockerSandboxBackend] = Queue(maxsize=size)
        self.size = size
        self._initialize()

    def _initialize(self):
        """Makes the containers ahead"""
        for _ in range(self.size):
            backend = DockerSandboxBackend()
            self.pool.put_nowait(backend)

    async def acquire(self) -> DockerSandboxBackend:
        """Takes a container"""
        return await self.pool.get()

    async def release(self, backend: DockerSandboxBackend):
        """Gives a container back"""
        # Removes the files in it
        backend.execute("rm -rf /workspace/*")
        await self.pool.put(backend)

    def cleanup(self):
        """Ends all containers"""
        while not self.pool.empty():
            backend = self.pool.get_nowait()
            backend.cleanup()

# In use
pool = DockerBackendPool(size=10)

@app.post("/chat")
async def chat(message: str):
    backend = await pool.acquire()
    try:
        agent = create_agent(
            model,
            tools=tools,
            middleware=[FilesystemMiddleware(backend=backend)]
        )
        result = await agent.ainvoke({"messages": [{"role": "user", "content": message}]})
        return result
    finally:
        await pool.release(backend)
