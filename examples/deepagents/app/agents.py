"""The agent of the examples: LangChain's `create_agent`, deepagents' tools for files and commands, and a model.

The model is a scripted one, which needs no key: it calls the tools that the user's message names, one a line, and
answers with what the last of them said:

    write_file {"file_path": "/workspace/a.py", "content": "print(6 * 7)"}
    execute {"command": "python3 a.py"}

Put a model of yours in its place.
"""

from __future__ import annotations

import json
from typing import Any

from deepagents.middleware.filesystem import FilesystemMiddleware
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

__all__ = ["FilesystemMiddleware", "ScriptedModel", "create_agent", "model", "tools"]


class ScriptedModel(BaseChatModel):
    """Does what the last message of the user says, word by word."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> ScriptedModel:
        """It finds them by name."""
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        last = max(at for at, message in enumerate(messages) if isinstance(message, HumanMessage))
        lines = [line for line in str(messages[last].text).splitlines() if line.strip()]
        results = [message for message in messages[last:] if isinstance(message, ToolMessage)]
        if len(results) < len(lines):
            name, _, arguments = lines[len(results)].strip().partition(" ")
            call = {"name": name, "args": json.loads(arguments), "id": f"call-{len(messages)}"}
            answer = AIMessage(content="", tool_calls=[call])
        else:
            answer = AIMessage(content=str(results[-1].text) if results else "")
        return ChatResult(generations=[ChatGeneration(message=answer)])


model = ScriptedModel()
tools: list[Any] = []
