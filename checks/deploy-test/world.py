"""The environment of the steps: the emulator, the local stack's stand-in for Human API, an issuer, and clients for users, backends and
operators. Everything listens on loopback and ends with the steps."""

import base64
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

REGION = "us-east-1"
ORIGINS = ("https://app.example", "https://admin.example")
# Steps wait for these two times, so they are short: the template's literals have other values here.
UPSTREAM_TIMEOUT_MS = 2000
LITERALS = {"SECRET_TTL_SECONDS: '300'": "SECRET_TTL_SECONDS: '2'",
            "UPSTREAM_TIMEOUT_MS: '8000'": f"UPSTREAM_TIMEOUT_MS: '{UPSTREAM_TIMEOUT_MS}'"}
ROOT = Path(__file__).resolve().parents[2]
# the emulator's own root user
OPERATOR = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class Counts:
    """Counts passed and failed checks, and measures the steps. An exception in a step ends the run."""
    passed = failed = 0
    steps = []

    def check(self, what, holds, seen=""):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
        print(f"  {'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {seen}'}", flush=True)

    @contextmanager
    def step(self, name):
        print(f"\n{name}", flush=True)
        began = time.monotonic()
        yield
        self.steps.append((name, time.monotonic() - began))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An identity provider: OpenID configuration, JWKS, RS256."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = self

        class Pages(BaseHTTPRequestHandler):
            def do_GET(self):
                page = {"/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"},
                        "/jwks": {"keys": [issuer.jwk()]}}.get(self.path)
                self.send_response(200 if page else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(page).encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def jwk(self):
        numbers = self.key.public_key().public_numbers()
        number = lambda n: base64url(n.to_bytes((n.bit_length() + 7) // 8, "big"))
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": number(numbers.n), "e": number(numbers.e)}

    def sign(self, user, key=None, **claims):
        now = int(time.time())
        claims = {"iss": self.url, "aud": "human-connect", "sub": user, "email": f"{user}@example.test", "iat": now,
                  "exp": now + 3600, **claims}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT", "kid": "one"}, claims))
        signature = (key or self.key).sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url(signature)}"


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.text = response.read().decode()

    def __getattr__(self, name):
        """A field of the body; None if the body does not have the field."""
        try:
            return json.loads(self.text).get(name)
        except (ValueError, AttributeError):
            return None

    def __str__(self):
        return f"{self.status} {re.sub(r'made-up-[a-z-]*token-[0-9a-f]+', '***', self.text)}"


def send(url, method, path, body=None, headers=None, host=None):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body, {**({"Host": host} if host else {}), **(headers or {})})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def post_json(url, path, body):
    return send(url, "POST", path, json.dumps(body), {"Content-Type": "application/json"})


class World:
    def __init__(self, target, emulator_python, build):
        self.target, self.build = Path(target), Path(build)
        self.work = self.target / "checks/deploy-test-work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="deploy-test-"))  # the emulator unpacks each function there
        self.emulator_python = emulator_python
        self.processes = []

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # __exit__ then ends the started processes
        try:
            self.issuer = Issuer()
            self._start_human_api()
            self._start_emulator()
            self._edit_template()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:  # each leads its own process group, so the emulator's functions end too
            try:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(10)
            except ProcessLookupError:
                pass
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _start(self, name, command, cwd=None, **env):
        log = open(self.work / f"{name}.log", "wb")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                                   cwd=cwd, env={**os.environ, **env})
        self.processes.append(process)
        return process

    def _wait(self, name, process, ready):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if found := ready():
                    return found
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{name} did not start: {(self.work / f'{name}.log').read_text()[-2000:]}")

    def _start_human_api(self):
        """Starts the local stack. The steps use only its stand-in for Human API."""
        folder = self.scratch / "local"
        folder.mkdir()
        process = self._start("local", [self.target / "debug/local"], cwd=folder)
        log = self.work / "local.log"
        found = self._wait("local", process, lambda: re.search(r"open (http:\S+)", log.read_text()))
        self.console = found.group(1)
        state = json.loads(send(self.console, "GET", "/local/state").text)
        self.human_api, self.client_id = state["widgetOrigin"], state["clientId"]

    def _edit_template(self):
        """Puts this world's values into the built template, where the template has literals."""
        template = self.build / "template.yaml"
        text = template.read_text()
        for literal, value in {**LITERALS, "https://auth.humanapi.co": self.human_api, "https://user.humanapi.co": self.human_api}.items():
            assert text.count(literal) == 1, literal
            text = text.replace(literal, value)
        template.write_text(text)

    def stand_in(self, action, **more):
        answer = post_json(self.console, "/local/stand-in", {"action": action, **more})
        assert answer.status == 200, answer

    def _start_emulator(self):
        port = free_port()
        self.aws = f"http://127.0.0.1:{port}"
        services = "lambda,apigateway,dynamodb,secretsmanager,cloudformation,iam,s3,sts,sqs,events,logs,kms,monitoring,cloudwatch"
        process = self._start(
            "emulator", [self.emulator_python, ROOT / "checks/deploy-test/emulator.py"], cwd=self.work, AUTH="true",
            GATEWAY_PORT=str(port), BIND_HOST="127.0.0.1", IOT_MTLS_ENABLED="0", AWS_ENDPOINT_URL=self.aws, SERVICES=services,
            LAMBDA_EXECUTOR="local", TMPDIR=str(self.scratch), AWS_DEFAULT_REGION=REGION, MINISTACK_REGION=REGION, **OPERATOR)
        self._wait("emulator", process, lambda: send(self.aws, "GET", "/_ministack/health").status == 200)
        self.client("s3").create_bucket(Bucket="deploy-test")

    def client(self, service, credentials=None):
        credentials = credentials or OPERATOR
        return boto3.client(
            service, endpoint_url=self.aws, region_name=REGION, aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"], aws_session_token=credentials.get("AWS_SESSION_TOKEN"),
            config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}))

    # ------------------------------------------------------------ the operator
    def deploy(self, stack, **parameters):
        """Runs `sam deploy` as docs/deploy.md describes. Returns its output if it failed, else None."""
        parameters = {"JwtIssuer": self.issuer.url, "JwtAudience": "human-connect,another", "HumanApiClientId": self.client_id,
                      "AllowedOrigins": ",".join(ORIGINS), **parameters}
        return self._run(
            ["sam", "deploy", "--template-file", self.build / "template.yaml", "--stack-name", stack, "--s3-bucket", "deploy-test",
             "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--no-progressbar", "--region", REGION,
             "--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items())])

    def cargo_lambda_deploy(self, function, binary):
        return self._run(["cargo", "lambda", "deploy", function, "--binary-name", binary, "--merge-env",
                          "--lambda-dir", self.target / "lambda", "--endpoint-url", self.aws, "--region", REGION])

    def _run(self, command):
        """Runs a command. Returns its output if it failed, else None."""
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, stdin=subprocess.DEVNULL, env={
            **os.environ, **OPERATOR, "AWS_ENDPOINT_URL": self.aws, "SAM_CLI_POLL_DELAY": "1"})
        return (done.stdout + done.stderr)[-4000:] if done.returncode else None

    def delete_stack(self, stack):
        cloudformation = self.client("cloudformation")
        cloudformation.delete_stack(StackName=stack)
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack, WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    def outputs(self, stack):
        found = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]
        return {output["OutputKey"]: output["OutputValue"] for output in found}

    def resources(self, stack):
        """Returns a dictionary from logical id to (type, physical id)."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        return {r["LogicalResourceId"]: (r["ResourceType"], r["PhysicalResourceId"])
                for page in pages for r in page["StackResourceSummaries"]}

    def role(self, name, *policies):
        """Creates a role of another backend with these managed policies. Returns its credentials."""
        trust = {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
        iam = self.client("iam")
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
        for policy in policies:
            iam.attach_role_policy(RoleName=name, PolicyArn=policy)
        return self.assume(role["Arn"])

    def assume(self, arn):
        found = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="deploy-test")["Credentials"]
        return {"AWS_ACCESS_KEY_ID": found["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
                "AWS_SESSION_TOKEN": found["SessionToken"]}

    # ------------------------------------------------------------ callers of the API
    def api(self, stack):
        api_id = self.resources(stack)["Api"][1]
        return Api(self, f"{api_id}.execute-api.localhost:{self.aws.rsplit(':', 1)[1]}")


class Api:
    """A client of a deployed API. It sends the API's host name to the emulator's address."""

    def __init__(self, world, host):
        self.world, self.host = world, host

    def call(self, route, user=None, body=None, token=None, credentials=None, headers=None):
        method, path = route.split(" ")
        headers = dict(headers or {})
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
            headers["Content-Type"] = "application/json"
        if user or token:
            headers["Authorization"] = f"Bearer {token or self.world.issuer.sign(user)}"
        if credentials:
            headers.update(self._signature(method, path, body, credentials, headers))
        return send(self.world.aws, method, path, body, headers, self.host)

    def _signature(self, method, path, body, credentials, headers):
        request = AWSRequest(method, f"http://{self.host}{path}", data=body, headers=headers)
        SigV4Auth(Credentials(credentials["AWS_ACCESS_KEY_ID"], credentials["AWS_SECRET_ACCESS_KEY"],
                              credentials.get("AWS_SESSION_TOKEN")), "execute-api", REGION).add_auth(request)
        return dict(request.headers)
