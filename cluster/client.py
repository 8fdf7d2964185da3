"""A client of a running service: its routes as methods, its problems as exceptions. Knows nothing of Ray or files."""

from types import TracebackType
from typing import Any, NoReturn, Self

import httpx

from models.errors import BadInput, EarshotError

ANY_SOUND = "application/octet-stream"
OF_THE_INPUT = frozenset({400, 413, 415, 422})


class ServiceError(EarshotError):
    """The service refused or failed; the message is the problem's detail. Status 0: no service answered."""

    def __init__(self, detail: str, *, status: int = 0, kind: str = "", title: str = "", request_id: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.type = kind
        self.title = title
        self.request_id = request_id
        self.slug = kind.rpartition("/")[2] or self.slug


class InputRefused(ServiceError, BadInput):
    """The service refused the sound or an option: trying again without a change does not help."""


class ServiceUnreachable(ServiceError):
    """Nothing answers at the address, or not in time."""

    slug = "unreachable"


class EarshotClient:
    """The service at one address, for any number of threads. Every method raises ServiceError or one of its kinds."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        self.base_url = base_url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # The service is named by its address alone: a proxy from the environment must not come between.
        self._http = httpx.Client(base_url=self.base_url, headers=headers, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def classify(self, audio: bytes, *, content_type: str = ANY_SOUND, **options: Any) -> dict[str, Any]:
        """A sound -> the full answer. Options are those of POST /v1/classify, such as top_k=3 or timeline=True."""
        answer = self._post("/v1/classify", audio, content_type, options)
        return self._document(answer)

    def spectrogram(self, audio: bytes, *, content_type: str = ANY_SOUND) -> bytes:
        """A sound -> a PNG of its log-mel."""
        return self._post("/v1/spectrogram", audio, content_type, {}).content

    def models(self) -> list[dict[str, Any]]:
        """What is served, one item a model."""
        models: list[dict[str, Any]] = self._document(self._send("GET", "/v1/models"))["models"]
        return models

    def _post(self, route: str, audio: bytes, content_type: str, options: dict[str, Any]) -> httpx.Response:
        chosen = {name: value for name, value in options.items() if value is not None}
        return self._send("POST", route, content=audio, headers={"Content-Type": content_type}, params=chosen)

    def _send(self, method: str, route: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, route, **request)
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(f"the service at {self.base_url} did not answer in time") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            detail = f"no Earshot service answers at {self.base_url}. Start one with: make up"
            raise ServiceUnreachable(detail) from error
        if not response.is_success:
            _raise_problem(response)
        return response

    def _document(self, response: httpx.Response) -> dict[str, Any]:
        try:
            document = response.json()
        except ValueError as error:
            raise ServiceError(
                f"what answers at {self.base_url} is not an Earshot service: no JSON came back"
            ) from error
        if not isinstance(document, dict):
            raise ServiceError(f"what answers at {self.base_url} is not an Earshot service: no JSON object came back")
        return document


def _raise_problem(response: httpx.Response) -> NoReturn:
    """A response that is no success -> the error it tells of; any other server's error page is told by its status."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    error = InputRefused if response.status_code in OF_THE_INPUT else ServiceError
    raise error(
        str(problem.get("detail") or f"the service answered {response.status_code} {response.reason_phrase}"),
        status=response.status_code,
        kind=str(problem.get("type") or ""),
        title=str(problem.get("title") or response.reason_phrase),
        request_id=str(problem.get("request_id") or response.headers.get("x-request-id", "")),
    )
