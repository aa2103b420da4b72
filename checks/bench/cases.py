"""What is measured of each function: one story, its event, and the calls that it must make, no more and no fewer."""

import dataclasses
import json
import pathlib
import typing

EVENTS = pathlib.Path(__file__).parents[2] / "events"


@dataclasses.dataclass
class Case:
    """One story of one function."""

    name: str
    story: str
    event: dict
    status: int | None
    calls: list[str] | None
    # DEFAULT_FLOW: INIT opens the host of Human API that it needs
    flow: str = "connect"
    # whether each invocation is about a user of whom nothing is stored, or one who has connected
    new_user: bool = True
    # what the first invocation calls, where that is more
    first_calls: list[str] | None = None
    # warm invocations under callgrind
    counted: int = 20
    connected: typing.ClassVar[int] = 0

    def users(self, around, count):
        """The first of as many users as are needed; the connected ones are numbered from 0."""
        if self.new_user:
            return around.new_users(count)
        if count > Case.connected:
            raise SystemExit(f"{count} connected users are wanted, there are {Case.connected}")
        return 0


def event(path, body=None):
    """An event of events/, about the user of the invocation's number."""
    read = json.loads((EVENTS / path).read_text())
    authorizer = read.get("requestContext", {}).get("authorizer", {})
    if "jwt" in authorizer:
        authorizer["jwt"]["claims"].update(sub="user-{i}", email="user-{i}@example.test")
    if body is not None:
        read["body"] = json.dumps(body)
    return read


FINISH = Case(
    "finish",
    "a popup's callback: hold, exchange, commit",
    event(
        "finish/popup-new-user.json",
        {"humanId": "human-{i}", "clientId": "made-up-client-id", "sessionToken": "made-up-session-token-of-user-{i}"},
    ),
    201,
    ["UpdateItem", "/v1/connect/tokens", "UpdateItem"],
    flow="popup",
)
ACCESS_TOKEN = Case(
    "access-token",
    "the stored token",
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
        "a new user's session token: read, hold, ask, commit",
        event("session-start/connect-new-user.json"),
        200,
        ["GetItem", "UpdateItem", "/v1/connect/token", "UpdateItem"],
    ),
    Case("public-token", "the stored token", event("public-token/stored.json"), 200, ["GetItem"], new_user=False),
    Case("connection", "connected since when", event("connection/popup-user.json"), 200, ["GetItem"], new_user=False),
    Case("sweeper", "nothing to sweep", event("sweeper/scheduled.json"), None, None),
]
HELLO = dataclasses.replace(FINISH, name="hello", story="answers hello", status=200, calls=[])
# they keep the client secret for good, and know no hold
PEER = dataclasses.replace(
    FINISH,
    name="peer",
    story="the guide's sample: exchange, put",
    calls=["/v1/connect/tokens", "PutItem"],
    first_calls=["GetSecretValue", "/v1/connect/tokens", "PutItem"],
)
