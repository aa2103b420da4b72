"""The measured case of each function: its event, and the exact calls that the function must make."""

import dataclasses
import json
import pathlib
import typing

EVENTS = pathlib.Path(__file__).parents[2] / "events"


@dataclasses.dataclass
class Case:
    """One case of one function."""

    name: str
    description: str
    event: dict
    status: int | None
    calls: list[str] | None
    # DEFAULT_FLOW: INIT opens a connection to the host of Human API that this flow needs
    flow: str = "connect"
    # True: each invocation has a user without a row. False: each invocation has a connected user.
    new_user: bool = True
    # calls of the first invocation, if it makes more
    first_calls: list[str] | None = None
    # number of warm invocations under callgrind
    counted: int = 20
    connected: typing.ClassVar[int] = 0

    def users(self, around, count):
        """The number of the first of `count` users. The connected users are numbered from 0."""
        if self.new_user:
            return around.new_users(count)
        if count > Case.connected:
            raise SystemExit(f"{count} connected users are needed, there are {Case.connected}")
        return 0


def event(path, body=None):
    """An event of events/. The world fills in {i}, the number of the user, and {humanId} and {sessionToken} of the user's popup."""
    read = json.loads((EVENTS / path).read_text())
    authorizer = read.get("requestContext", {}).get("authorizer", {})
    if "jwt" in authorizer:
        authorizer["jwt"]["claims"].update(sub="user-{i}", email="user-{i}@example.test")
    if body is not None:
        read["body"] = json.dumps(body)
    return read


FINISH = Case(
    "finish",
    "a popup's callback: acquire, exchange, commit",
    event(
        "finish/popup-new-user.json",
        {"humanId": "{humanId}", "clientId": "made-up-client-id", "sessionToken": "{sessionToken}"},
    ),
    201,
    ["UpdateItem", "POST /v1/connect/tokens", "UpdateItem"],
    flow="popup",
)
ACCESS_TOKEN = Case(
    "access-token",
    "returns the stored token",
    event("access-token/popup-user.json", {"clientUserId": "user-{i}"}),
    200,
    ["GetItem"],
    new_user=False,
)
CASES = [
    FINISH,
    ACCESS_TOKEN,
    Case(
        "session-start",
        "a new user's session token: read, acquire, send, commit",
        event("session-start/connect-new-user.json"),
        200,
        ["GetItem", "UpdateItem", "POST /v1/connect/token (session)", "UpdateItem"],
    ),
    Case("public-token", "returns the stored token", event("public-token/stored.json"), 200, ["GetItem"], new_user=False),
    Case("connection", "shows the connection", event("connection/popup-user.json"), 200, ["GetItem"], new_user=False),
    Case("maintenance", "nothing to sweep", event("maintenance/sweep.json"), None, ["Scan"]),
]
HELLO = dataclasses.replace(FINISH, name="hello", description="answers hello", status=200, calls=[])
# the peers cache the client secret forever, and have no lease
PEER = dataclasses.replace(
    FINISH,
    name="peer",
    description="the guide's sample: exchange, put",
    calls=["POST /v1/connect/tokens", "PutItem"],
    first_calls=["GetSecretValue (client-secret)", "POST /v1/connect/tokens", "PutItem"],
)
