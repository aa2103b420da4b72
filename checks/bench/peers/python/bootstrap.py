"""A minimal Lambda runtime loop. AWS's own loop for Python does more."""

import http.client
import json
import os

from handler import handler

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])


def ask(method, path, body=None):
    api.request(method, f"/2018-06-01/runtime/invocation/{path}", body)
    response = api.getresponse()
    return response.headers, response.read()


while True:
    headers, event = ask("GET", "next")
    answer = handler(json.loads(event))
    ask("POST", f"{headers['lambda-runtime-aws-request-id']}/response", json.dumps(answer))
