"""A web service that publishes from its request handlers: sync ones by `publish`, async ones by `publish_async`.

    uvicorn web:web          and, for the consumer, in another terminal:  mqsdk run web:app

`with app` opens the publishing side only: a web process that imports the handlers does not run them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mqsdk import App, InvalidMessage, PublishRejected, PublishUnknown, Receipt

app = App()


class Order(TypedDict):
    id: str
    cents: int


@app.consumer("orders.created", group="billing", ordered=True)
def bill(order: Order) -> None:
    print(f"billed order {order['id']}: {order['cents'] / 100:.2f}", flush=True)


def accepted(receipt: Receipt) -> JSONResponse:
    return JSONResponse({"message": receipt.id}, status_code=202)


def create(request: Request) -> JSONResponse:
    """PUT /orders/{id}?cents=... A sync handler runs in a worker thread of the framework, so it may block."""
    order = Order(id=request.path_params["id"], cents=int(request.query_params.get("cents", "0")))
    return accepted(app.publish("orders.created", order, key=order["id"]))


async def create_async(request: Request) -> JSONResponse:
    """POST /orders with an order as JSON."""
    order: Order = await request.json()
    return accepted(await app.publish_async("orders.created", order, key=order["id"]))


async def refused(request: Request, error: Exception) -> JSONResponse:
    """A publish has three outcomes; these are the two that are no receipt."""
    match error:
        case InvalidMessage():
            status = 422
        case PublishUnknown():
            status = 504  # may be stored: the client repeats with the same order id
        case _:
            status = 503  # certainly not stored
    return JSONResponse({"error": str(error)}, status_code=status)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with app:
        yield


web = Starlette(
    routes=[
        Route("/orders/{id}", create, methods=["PUT"]),
        Route("/orders", create_async, methods=["POST"]),
    ],
    lifespan=lifespan,
    exception_handlers={PublishRejected: refused, PublishUnknown: refused},
)
