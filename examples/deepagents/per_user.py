"""Example 1: a backend for each user, kept while the application runs. `uvicorn per_user:app`"""

# What the example takes for granted.
from app.agents import FilesystemMiddleware, create_agent, model, tools

# The example.
from fastapi import Depends, FastAPI
from app.backends import DockerSandboxBackend
from app.core.deps import get_current_user

app = FastAPI()

# Backends of users
user_backends: dict[str, DockerSandboxBackend] = {}

def get_user_backend(user = Depends(get_current_user)) -> DockerSandboxBackend:
    """Finds or makes the backend of a user"""
    user_id = str(user.id)

    if user_id not in user_backends:
        # A new Docker container
        backend = DockerSandboxBackend(
            image="python:3.12-slim",
            memory_limit="512m",
            cpu_quota=50000,
            network_mode="none",
        )
        user_backends[user_id] = backend

    return user_backends[user_id]

@app.post("/chat")
async def chat(
    message: str,
    backend: DockerSandboxBackend = Depends(get_user_backend),
):
    # With a backend of the user's own
    agent = create_agent(
        model,
        tools=tools,
        middleware=[FilesystemMiddleware(backend=backend)]
    )
    result = await agent.ainvoke({"messages": [{"role": "user", "content": message}]})
    return result

@app.on_event("shutdown")
async def cleanup():
    """Ends all containers when the application does"""
    for backend in user_backends.values():
        backend.cleanup()
