"""Example 2: a backend for each request. `uvicorn per_request:app`"""

# What the example takes for granted.
from app.agents import FilesystemMiddleware, create_agent, model, tools
from app.backends import DockerSandboxBackend
from app.core.deps import get_current_user
from fastapi import Depends, FastAPI

app = FastAPI()

# The example.
@app.post("/chat")
async def chat(
    message: str,
    user = Depends(get_current_user),
):
    # A new container for each request, which ends by itself
    with DockerSandboxBackend(
        memory_limit="512m",
        network_mode="none",
    ) as backend:
        agent = create_agent(
            model,
            tools=tools,
            middleware=[FilesystemMiddleware(backend=backend)]
        )
        result = await agent.ainvoke({"messages": [{"role": "user", "content": message}]})
        return result
    # The container has ended
