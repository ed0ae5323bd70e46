"""Clients that outlive the backends that use them: some backends live for one call of a tool."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from typing import Any

from .._async.client import AsyncClient
from .._config import Config
from .._sync.client import Client

MOST = 16

_lock = threading.Lock()
_clients: OrderedDict[Any, Client] = OrderedDict()
_async: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, OrderedDict[Any, AsyncClient]]
_async = weakref.WeakKeyDictionary()


def client(config: Config) -> Client:
    """The client of this server and user."""
    with _lock:
        found = _clients.pop(_key(config), None) or Client._of(config)
        _clients[_key(config)] = found
        # It may still be in use: it is let go, not closed.
        while len(_clients) > MOST:
            _clients.popitem(last=False)
        return found


def async_client(config: Config) -> AsyncClient:
    """The client of this server and user, in the running event loop."""
    with _lock:
        clients = _async.setdefault(asyncio.get_running_loop(), OrderedDict())
        found = clients.pop(_key(config), None) or AsyncClient._of(config)
        clients[_key(config)] = found
        while len(clients) > MOST:
            clients.popitem(last=False)
        return found


def _key(config: Config) -> Any:
    values = vars(config)
    return tuple(sorted(values["headers"].items())), *(value for name, value in values.items() if name != "headers")
