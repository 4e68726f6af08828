"""A registration by hand: FastAPI and asyncpg, one prepared statement a request.

Environment: DATABASE_URL, POOL (connections to PostgreSQL a process), STATEMENT (file).
"""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import asyncpg
import orjson
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

STATEMENT = Path(os.environ["STATEMENT"]).read_text()
SIGNED_OUT = {"status": "error", "message": "You must be logged in to do this."}
REQUIRED = "body param is missing or invalid."
INVALID = {
    "id": ("error-id-param-not-valid", 'The required "id" body param is invalid.'),
    "type": ("error-type-param-not-valid", f'The required "type" {REQUIRED}'),
    "value": ("error-token-param-not-valid", f'The required "value" {REQUIRED}'),
    "appName": ("error-appName-param-not-valid", f'The required "appName" {REQUIRED}'),
}


def text(most: int) -> Any:
    """Return the type of a string that is not empty and has at most so many bytes."""

    def check(value: str) -> str:
        if not value or len(value.encode()) > most:
            raise ValueError
        return value

    return Annotated[str, AfterValidator(check)]


class Registration(BaseModel):
    """What an app sends, in the order in which it is checked."""

    id: Annotated[text(64) | None, BeforeValidator(lambda value: value or None)] = None
    type: Literal["apn", "gcm"]
    value: text(2048)
    app_name: text(255) = Field(alias="appName")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the pool of connections."""
    size = int(os.environ["POOL"])
    url = os.environ["DATABASE_URL"]
    async with asyncpg.create_pool(url, min_size=size, max_size=size) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


def answer(status: int, content: dict[str, Any]) -> Response:
    """Return a response in JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> Response:
    """Answer as Rocket.Chat does to the first field that cannot be used."""
    code, message = INVALID.get(error.errors()[0]["loc"][-1], INVALID["type"])
    return answer(400, {"success": False, "error": f"{message} [{code}]", "errorType": code})


@app.post("/api/v1/push.token")
async def register(
    fields: Registration,
    x_auth_token: Annotated[str, Header()] = "",
    x_user_id: Annotated[str, Header()] = "",
) -> Response:
    """Register a push token."""
    if not x_auth_token or not x_user_id:
        return answer(401, SIGNED_OUT)
    row = await app.state.pool.fetchrow(
        STATEMENT,
        hashlib.sha256(x_auth_token.encode()).digest(),
        x_user_id,
        os.urandom(9).hex()[:17],
        fields.app_name,
        fields.value,
        fields.type,
    )
    if row is None:
        return answer(401, SIGNED_OUT)
    created, updated = (
        row[key].isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for key in ("created_at", "updated_at")
    )
    result = {
        "token": {fields.type: fields.value},
        "appName": fields.app_name,
        "userId": x_user_id,
        "enabled": True,
        "createdAt": created,
        "updatedAt": updated,
        "_id": row["id"],
    }
    return answer(200, {"result": result, "success": True})
