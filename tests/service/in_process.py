"""The application asked without processes or sockets around it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from service.http.app import create_app
from service.http.context import Context
from service.offers import Offers, Preset

OFFERS = Offers(
    models=(),
    default_model="none",
    presets={"fast": Preset(samples=4, evaluations_per_sample=47)},
    versions={},
)


def ask(context: Context, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())
