"""The three ways to send a sound: multipart form, raw body, base64 in JSON. The gate has already bounded the body."""

import base64
import binascii
from collections.abc import Sequence

import orjson
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from serve.problems import HttpError

RAW_TYPES = ("audio/", "video/mp4", "video/webm", "application/octet-stream", "application/ogg")
ACCEPTED = "multipart/form-data, audio/*, application/octet-stream or application/json"


async def read_upload(request: Request, fields: Sequence[str] = ("audio",)) -> tuple[bytes, dict[str, object]]:
    """The sound's bytes, and the other members of a JSON body. `fields` are the names that the sound may have in JSON.

    Raises HttpError: 400 empty or not base64, 415 another content type, 422 no file part or no such member.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _read_form(request), {}
    if content_type == "application/json":
        return _read_json(await request.body(), fields)
    if not content_type or content_type.startswith(RAW_TYPES):
        return _not_empty(await request.body()), {}
    raise HttpError(415, f"content type {content_type!r} is not a sound: send {ACCEPTED}")


async def _read_form(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            part = form.get("file")
            if not isinstance(part, UploadFile):
                raise HttpError(422, "the form has no file part named 'file'", "no-file-part")
            return _not_empty(await part.read())
    except MultiPartException as error:
        raise HttpError(400, f"the form cannot be read: {error.message}") from error
    except KeyError as error:  # a content type without a boundary
        raise HttpError(400, "the form cannot be read: its content type names no boundary") from error


def _read_json(body: bytes, fields: Sequence[str]) -> tuple[bytes, dict[str, object]]:
    _not_empty(body)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, f"the body is not JSON: {error}") from error
    wanted = " or ".join(f'{{"{name}": "<base64>"}}' for name in fields)
    if not isinstance(document, dict):
        raise HttpError(422, f"the JSON body is not an object: send {wanted}")
    for name in fields:
        if isinstance(encoded := document.pop(name, None), str):
            try:
                return _not_empty(base64.b64decode(encoded, validate=True)), document
            except (binascii.Error, ValueError) as error:
                raise HttpError(400, f"{name!r} is not base64: {error}", "bad-base64") from error
    raise HttpError(422, f"the JSON body holds no sound: send {wanted}", "no-file-part")


def _not_empty(body: bytes) -> bytes:
    if not body:
        raise HttpError(400, "the body is empty: put the sound in it", "audio-empty")
    return body
