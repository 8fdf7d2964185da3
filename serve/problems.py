"""Every error as RFC 9457 application/problem+json, from one table."""

import http

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel

from models import errors

STATUS: dict[type[Exception], int] = {
    errors.AudioEmpty: 400,
    errors.AudioUndecodable: 422,
    errors.AudioTooLong: 413,
    errors.AudioNotFinite: 422,
    errors.AudioUnsupported: 422,
    errors.BadOption: 422,
    errors.BadInput: 400,
    errors.Overloaded: 503,
    errors.WeightsMissing: 503,
    errors.EarshotError: 500,
}
SLUGS = {
    400: "bad-request",
    401: "unauthorized",
    404: "not-found",
    405: "method-not-allowed",
    408: "body-too-slow",
    413: "body-too-large",
    415: "wrong-content-type",
    422: "bad-option",
    500: "internal",
    503: "overloaded",
    504: "deadline-exceeded",
}
RETRY_AFTER_S = 1


class Problem(BaseModel):
    """One error. `type` is stable; `detail` says what is wrong and what to do."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None


class HttpError(Exception):
    """An error of the protocol, before any sound is looked at."""

    def __init__(
        self, status: int, detail: str, slug: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.slug = slug or SLUGS.get(status, "error")
        self.headers = headers or {}


def as_http_error(error: BaseException) -> HttpError:
    """Any error -> what the caller is told. Nothing of an unforeseen error's text reaches a stranger."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, RequestValidationError):
        return HttpError(422, _describe(error))
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            return HttpError(status, str(_cause(error)), _cause(error).slug)
    if isinstance(error, TimeoutError):
        return HttpError(504, "the answer took longer than the service allows: send a shorter sound, or again later")
    return HttpError(500, "a fault of the service, not of your request: it is in the log under this request id")


def _cause(error: Exception) -> errors.EarshotError:
    """Our own error, where Ray has wrapped it on its way from another replica."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, errors.EarshotError) else error  # type: ignore[return-value]


def _describe(error: RequestValidationError) -> str:
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"] if part not in ("query", "body"))
        parts.append(f"{name}: {item['msg'][:1].lower()}{item['msg'][1:]}" if name else item["msg"])
    return "; ".join(parts)


def problem_response(error: BaseException, request_id: str | None) -> Response:
    """An error -> the HTTP response."""
    known = as_http_error(error)
    title = http.HTTPStatus(known.status).phrase
    problem = Problem(
        type=f"/problems/{known.slug}", title=title, status=known.status, detail=known.detail, request_id=request_id
    )
    headers = {"Retry-After": str(RETRY_AFTER_S)} if known.status in (429, 503) else {}
    return Response(
        problem.model_dump_json(), known.status, headers | known.headers, media_type="application/problem+json"
    )
