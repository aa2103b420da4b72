// Tests the browser client in cases that are hard to reach in a browser: refused sign-ins, invalid responses, two users in one tab.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { takeNewerFeatures } from "./older.mjs";

const { call, connect, resume, ConnectError } = await import("../../web/human-connect-backend.js");

const realFetch = globalThis.fetch;
const SESSION = { humanId: "h", clientId: "c", sessionToken: "made-up" };
const OPENED = { flow: "popup", mode: "create", clientId: "c", clientUserId: "u", publicToken: "", finishUrl: "made-up" };
const DONE = { connected: true, sources: [] };

let kept, asked, answers, user;
beforeEach(() => {
  [kept, asked, user] = [{}, [], "ada"];
  answers = { "/connect/session": () => [200, OPENED], "/connect/finish": () => [201, DONE], "/connect/connection": () => [200, DONE] };
  globalThis.sessionStorage = kept;
  globalThis.fetch = async (url, { body: sent, headers: given }) => {
    const path = new URL(url).pathname;
    asked.push(path);
    const [status, body, headers] = answers[path](sent && JSON.parse(sent), given);
    return new Response(body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body), { status, headers });
  };
  globalThis.HumanConnect = { open: ({ finish }) => setTimeout(finish, 0, null, SESSION) };
});

const token = (sub) => `x.${btoa(JSON.stringify({ sub }))}.x`;
const options = { api: "https://api.example.test", flow: "popup", getToken: async () => token(user) };
const remembered = () => Object.keys(kept).length;
const refused = (code) => (error) => error instanceof ConnectError && error.code === code;

test("a session is kept until a final answer, and posted again after a reload", async () => {
  for (const [status, code] of [[502, "upstream_unauthorized"], [502, "upstream_invalid"], [403, undefined], [404, undefined]]) {
    answers["/connect/finish"] = () => [status, { code, message: "made up" }];
    await assert.rejects(connect(options), refused(code ?? "gateway"));
    assert.equal(remembered(), 1, code);
    answers["/connect/finish"] = () => [201, DONE];
    assert.deepEqual(await resume(options), DONE);
    assert.equal(remembered(), 0);
  }
  answers["/connect/finish"] = () => [422, { code: "session_rejected" }];
  await assert.rejects(connect(options), refused("session_rejected"));
  assert.equal(remembered(), 0);
});

test("a sign-in that fails during finish loses nothing", async () => {
  let gone = false;
  const getToken = async (refresh) => {
    if (refresh && gone) throw new Error("offline");
    return token(user);
  };
  answers["/connect/finish"] = () => ((gone = true), [401, { message: "Unauthorized" }]);
  await assert.rejects(connect({ ...options, getToken }), /offline/);
  assert.equal(remembered(), 1);
});

test("a success without JSON means a wrong address, and is not retried", async () => {
  answers["/connect/connection"] = () => [200, "<!doctype html>"];
  const error = await call(options, "GET /connect/connection").catch((error) => error);
  assert.deepEqual([error.code, error.status, asked.length], ["gateway", 200, 1]);
  assert.match(error.message, /api/);
});

test("a user who signs in while the widget is open does not post another user's session", async () => {
  globalThis.HumanConnect = { open: ({ finish }) => ((user = "eve"), setTimeout(finish, 0, null, SESSION)) };
  await assert.rejects(connect(options), refused("user_changed"));
  assert.equal(await resume(options), null, "eve has no session");
  user = "ada";
  assert.deepEqual(await resume(options), DONE);
  assert.deepEqual(asked, ["/connect/session", "/connect/finish"]);
});

test("concurrent calls of one user are joined, those of two users are not", async () => {
  const as = (sub) => ({ ...options, getToken: async () => token(sub) });
  await Promise.all([connect(as("ada")), connect(as("ada")), connect(as("eve"))]);
  assert.equal(asked.filter((path) => path === "/connect/session").length, 2);
});

test("a browser that denies storage can connect", async () => {
  const denied = () => {
    throw new Error("denied");
  };
  globalThis.sessionStorage = new Proxy({}, { get: denied, set: denied, deleteProperty: denied });
  assert.deepEqual(await connect(options), DONE);
});

/** A mock of Human API's Connect client. `act` acts in its widget. */
const widget = (act) => ({ open: (given) => setTimeout(act, 0, given) });
const connectOptions = { ...options, flow: "connect" };
const asConnect = () => (answers["/connect/session"] = () => [200, { flow: "connect", mode: "create", token: "made-up" }]);

test("if a reload closes a Connect widget, resume posts an empty finish", async () => {
  asConnect();
  let gone;
  globalThis.HumanConnect = widget(() => gone());
  const left = new Promise((resolve) => (gone = resolve));
  connect({ ...connectOptions, api: "https://reloaded.example.test" });
  await left; // the page has gone before it posted anything
  const reloaded = await import("../../web/human-connect-backend.js?reloaded");
  const sent = [];
  answers["/connect/finish"] = (body) => (sent.push(body), [200, { connected: false, sources: [] }]);
  const resumed = await reloaded.resume({ ...connectOptions, api: "https://reloaded.example.test" });
  assert.deepEqual(resumed, { connected: false, sources: [] });
  assert.deepEqual(sent, [{}]);
  assert.equal(remembered(), 0);
});

test("if an earlier visit left no connection, the widget opens", async () => {
  asConnect();
  answers["/connect/finish"] = ({ status }) => [201, { connected: status === "closed", sources: [] }];
  globalThis.HumanConnect = widget(({ onClose }) => onClose({ status: "closed" }));
  kept["human-connect https://api.example.test ada"] = "{}";
  assert.equal((await connect(connectOptions)).connected, true);
  assert.deepEqual(asked, ["/connect/finish", "/connect/session", "/connect/finish"]);
});

test("if the popup reports a known user, the Connect widget opens", async () => {
  const flows = [];
  answers["/connect/session"] = ({ flow }) => {
    flows.push(flow);
    return [200, flow === "popup" ? OPENED : { flow, mode: "edit", token: "made-up" }];
  };
  globalThis.HumanConnect = widget(({ error, close, onClose }) => {
    if (onClose) return onClose({});
    error({ message: "User Already Exists" });
    close();
  });
  assert.deepEqual(await connect(options), DONE);
  assert.deepEqual(flows, ["popup", "connect"]);
});

test("an open widget or a missing client is an error", async () => {
  asConnect();
  globalThis.HumanConnect = { open: () => null };
  await assert.rejects(connect(connectOptions), refused("widget"));
  delete globalThis.HumanConnect;
  await assert.rejects(connect(connectOptions), refused("widget"));
});

test("a page that is left does not wait for the widget", async () => {
  asConnect();
  const leaving = new AbortController();
  globalThis.HumanConnect = widget(() => leaving.abort());
  await assert.rejects(connect({ ...connectOptions, signal: leaving.signal }), { name: "AbortError" });
  answers["/connect/finish"] = () => [200, { connected: false, sources: [] }];
  globalThis.HumanConnect = { open: () => assert.fail("the page has gone") };
  await assert.rejects(connect({ ...connectOptions, signal: leaving.signal }), { name: "AbortError" });
});

test("a stored value that cannot be read is not posted", async () => {
  kept["human-connect https://api.example.test ada"] = "{half";
  assert.equal(await resume(options), null);
  assert.deepEqual(await connect(options), DONE);
  assert.equal(remembered(), 0);
});

test("an exception in onProgress does not end the call", async () => {
  const reported = [];
  const listener = (error) => reported.push(error.message);
  process.prependListener("uncaughtException", listener);
  const others = process.listeners("uncaughtException").filter((other) => other !== listener);
  for (const other of others) process.removeListener("uncaughtException", other);
  try {
    const onProgress = (step) => {
      throw new Error(`made up, at ${step}`);
    };
    assert.deepEqual(await connect({ ...options, onProgress }), DONE);
  } finally {
    process.removeListener("uncaughtException", listener);
    for (const other of others) process.on("uncaughtException", other);
  }
  assert.deepEqual(reported, ["starting", "opened", "finishing", "finished"].map((step) => `made up, at ${step}`));
});

/** Advances mocked time until `work` has ended. Returns the outcome and the seconds that it took. */
async function passing(t, work) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  let over = false;
  const outcome = work().finally(() => (over = true)).then((value) => ({ value }), (error) => ({ error }));
  let seconds = 0;
  for (; seconds < 200; seconds++) {
    for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
    if (over) break;
    t.mock.timers.tick(1000);
  }
  return { ...(await outcome), seconds };
}

test("a transient error is retried, any other is reported at once", async (t) => {
  for (const [status, again] of [[429, true], [500, true], [503, true], [504, true], [400, false], [404, false], [409, false], [502, false]]) {
    let times = 0;
    answers["/connect/connection"] = () => (times++ ? [200, DONE] : [status, { message: "made up" }]);
    const { value, error } = await passing(t, () => call(options, "GET /connect/connection"));
    t.mock.timers.reset();
    assert.equal(again ? value?.connected : error?.status, again ? true : status, `${status}`);
    assert.equal(times, again ? 2 : 1, `${status}`);
  }
});

test("the client waits for Retry-After, and does not retry forever", async (t) => {
  for (const [after, seconds] of [["7", 7], ["0", 1], ["-5", 1], ["0.001", 1], ["Wed, 21 Oct 2026 07:28:00 GMT", 1]]) {
    let times = 0;
    answers["/connect/connection"] = () => (times++ ? [200, DONE] : [409, { code: "finish_in_progress" }, { "Retry-After": after }]);
    const waited = await passing(t, () => call(options, "GET /connect/connection"));
    t.mock.timers.reset();
    assert.deepEqual([waited.value, waited.seconds], [DONE, seconds], after);
  }
  const busy = { code: "finish_in_progress", requestId: "made-up-request" };
  answers["/connect/connection"] = () => [409, busy, { "Retry-After": "9" }];
  const { error, seconds } = await passing(t, () => call(options, "GET /connect/connection"));
  assert.deepEqual([error.code, error.retryAfter, error.requestId], ["finish_in_progress", 9, "made-up-request"]);
  assert.ok(seconds <= 60, `${seconds} s`);
});

test("an expired token is replaced only once", async () => {
  asConnect();
  const bodies = [];
  answers["/connect/session"] = (body) => (bodies.push(body), [200, { flow: "connect", mode: "create", token: "made-up" }]);
  globalThis.HumanConnect = widget(({ onClose }) => onClose({ status: "SESSION_TOKEN_EXPIRED" }));
  await connect({ ...connectOptions, email: "ada@example.test" });
  const wanted = { flow: "connect", clientUserEmail: "ada@example.test" };
  assert.deepEqual(bodies, [{ ...wanted, refresh: false }, { ...wanted, refresh: true }]);
  let tokens = 0;
  answers["/connect/connection"] = () => [401, { message: "Unauthorized" }];
  await assert.rejects(call({ ...options, getToken: async () => (tokens++, "made-up") }, "GET /connect/connection"), refused("gateway"));
  assert.equal(tokens, 2);
});

test("a popup that always reports a known user ends in an error", async () => {
  let sessions = 0;
  answers["/connect/session"] = () => (sessions++, [200, OPENED]); // a faulty backend
  globalThis.HumanConnect = widget(({ error, close }) => (error({ message: "User Already Exists" }), close()));
  await assert.rejects(connect(options), refused("widget"));
  assert.equal(sessions, 2);
});

test("if the backend refuses an empty finish, the widget still opens", async () => {
  asConnect();
  let times = 0;
  answers["/connect/finish"] = () => (times++ ? [201, DONE] : [502, { code: "upstream_invalid" }]);
  globalThis.HumanConnect = widget(({ onClose }) => onClose({ status: "closed" }));
  kept["human-connect https://api.example.test ada"] = "{}";
  assert.deepEqual(await connect(connectOptions), DONE);
});

test("resume waits for the open widget, and keeps its stored value", async () => {
  asConnect();
  let close;
  globalThis.HumanConnect = { open: ({ onClose }) => void (close = onClose) };
  const connecting = connect(connectOptions);
  while (!close) await new Promise(setImmediate);
  const resumed = resume(connectOptions);
  for (let ticks = 0; ticks < 10; ticks++) await new Promise(setImmediate);
  assert.equal(remembered(), 1, "without the stored value, a reload would lose the session");
  close({ status: "closed" });
  assert.deepEqual([await connecting, await resumed], [DONE, DONE]);
});

test("after a reload, a click first finishes the stored session", async () => {
  asConnect();
  globalThis.HumanConnect = { open: () => assert.fail("it is connected already") };
  kept["human-connect https://api.example.test ada"] = JSON.stringify(SESSION);
  assert.deepEqual(await connect(connectOptions), DONE);
});

test("if users cannot be told apart, nothing is stored and no calls are joined", async () => {
  const opaque = { ...options, getToken: async () => "made-up-opaque-token" };
  answers["/connect/finish"] = () => [502, { code: "upstream_invalid" }];
  await Promise.allSettled([connect(opaque), connect(opaque)]);
  assert.equal(asked.filter((path) => path === "/connect/session").length, 2);
  assert.equal(remembered(), 0);
});

test("a JWT is read as base64url", async () => {
  const sub = "zoë?>~ÿ";
  const payload = Buffer.from(JSON.stringify({ sub })).toString("base64url");
  assert.match(payload, /[-_]/);
  answers["/connect/finish"] = () => [502, { code: "upstream_invalid" }];
  await assert.rejects(connect({ ...options, getToken: async () => `x.${payload}.x` }), refused("upstream_invalid"));
  assert.equal(remembered(), 1);
});

test("the widget gets its parameters, and onProgress gets each step", async () => {
  const steps = [];
  const onProgress = (step, detail) => steps.push([step, detail?.flow ?? detail?.status]);
  globalThis.HumanConnect = widget(({ clientUserId, clientId, publicToken, close }) => {
    steps.push([clientUserId, clientId, publicToken]);
    close();
  });
  assert.deepEqual(await connect({ ...options, onProgress }), DONE);
  asConnect();
  globalThis.HumanConnect = widget(({ token, onConnectSource, onDisconnectSource, onClose }) => {
    steps.push([token]);
    onConnectSource({ status: "one" });
    onDisconnectSource({ status: "other" });
    onClose({});
  });
  await connect({ ...connectOptions, onProgress });
  const popup = [["starting", undefined], ["opened", "popup"], ["u", "c", ""], ["closed", undefined]];
  const widgets = [["starting", undefined], ["opened", "connect"], ["made-up"], ["connected", "one"], ["disconnected", "other"]];
  assert.deepEqual(steps, [...popup, ...widgets, ["finishing", undefined], ["finished", undefined]]);
});

test("a delete has a response without a body", async () => {
  answers["/connect/connection"] = () => [204];
  assert.deepEqual(await call(options, "DELETE /connect/connection"), {});
});

/** Runs `work` without one property of a global object. */
async function without(object, name, work) {
  const described = Object.getOwnPropertyDescriptor(object, name);
  delete object[name];
  try {
    return await work();
  } finally {
    Object.defineProperty(object, name, described);
  }
}

test("an older browser can connect, resume, wait and abort", async (t) => {
  t.after(takeNewerFeatures(globalThis, ["hasOwn"])); // Node's own Response calls Object.hasOwn
  assert.deepEqual([AbortSignal.timeout, new AbortController().signal.throwIfAborted], [undefined, undefined]);
  const steps = [];
  const onProgress = (step) => steps.push(step);
  let times = 0;
  answers["/connect/session"] = () => (times++ ? [200, OPENED] : [503, {}, { "Retry-After": "1" }]);
  assert.deepEqual(await connect({ ...options, onProgress }), DONE);
  assert.deepEqual(steps, ["starting", "waiting", "opened", "finishing", "finished"]);
  kept["human-connect https://api.example.test ada"] = JSON.stringify(SESSION);
  assert.deepEqual(await resume(options), DONE);

  asConnect();
  const leaving = new AbortController();
  globalThis.HumanConnect = widget(() => leaving.abort());
  await assert.rejects(connect({ ...connectOptions, signal: leaving.signal }), { name: "AbortError" });
  kept = globalThis.sessionStorage = {};
  globalThis.HumanConnect = { open: () => assert.fail("the page has gone") };
  await assert.rejects(connect({ ...connectOptions, signal: leaving.signal }), { name: "AbortError" });
});

test("a browser without storage can connect", async () => {
  globalThis.sessionStorage = null; // as in an Android web view whose app has not enabled DOM storage
  assert.deepEqual(await connect(options), DONE);
  await without(globalThis, "sessionStorage", async () => assert.deepEqual(await connect(options), DONE));
});

test("a request that cannot be made is reported at once, with its own error", async () => {
  const steps = [];
  const given = { ...options, onProgress: (step) => steps.push(step) };
  const finish = (body, more) => call({ ...given, ...more }, "POST /connect/finish", body);
  const cycle = {};
  cycle.cycle = cycle;
  await assert.rejects(finish(cycle), { name: "TypeError", message: /circular/ });
  await assert.rejects(finish({ count: 1n }), { name: "TypeError", message: /BigInt/ });
  const signedOut = () => {
    throw new RangeError("signed out");
  };
  await assert.rejects(finish({}, { getToken: signedOut }), { name: "RangeError", message: "signed out" });
  await assert.rejects(finish({}, { getToken: async () => signedOut() }), { name: "RangeError", message: "signed out" });
  for (const feature of ["AbortController", "fetch"]) {
    await without(globalThis, feature, () => assert.rejects(finish({}), { name: "ReferenceError" }));
  }
  // The real `fetch` rejects these requests with a TypeError, as it does for a lost connection.
  globalThis.fetch = realFetch;
  await assert.rejects(finish({}, { getToken: () => "made-up\ntoken" }), { name: "TypeError" });
  await assert.rejects(finish({}, { api: "https://made up.example.test" }), { name: "TypeError" });
  await assert.rejects(call(given, "GET /connect/connection", {}), { name: "TypeError" });
  assert.deepEqual([asked, steps], [[], []]);
});

test("a response that never arrives is retried after a timeout, for headers and body", async (t) => {
  const never = new Promise(() => {});
  const stalls = {
    "no headers": () => never,
    "half a body": () => ({ ok: true, status: 200, headers: new Headers(), json: () => never }),
  };
  for (const [name, stall] of Object.entries(stalls)) {
    const signals = [];
    globalThis.fetch = async (_, { signal }) => {
      signals.push(signal); // this `fetch` ignores the signal, as in some web views
      return signals.length > 1 ? new Response("{}") : stall();
    };
    const { value, seconds } = await passing(t, () => call(options, "GET /connect/connection"));
    t.mock.timers.tick(60_000);
    t.mock.timers.reset();
    assert.deepEqual(value, {}, name);
    assert.equal(seconds, 36, name);
    assert.deepEqual(signals.map(({ aborted }) => aborted), [true, false], `${name}: the second timer has ended`);
  }
});

test("a refusal whose body never arrives is a refusal", async (t) => {
  globalThis.fetch = async () => ({ ok: false, status: 403, headers: new Headers(), json: () => new Promise(() => {}) });
  const { error, seconds } = await passing(t, () => call(options, "GET /connect/connection"));
  assert.deepEqual([error.status, error.code, seconds], [403, "gateway", 35]);
});

test("a broken connection has the code network, even within the body", async (t) => {
  const breaks = [
    () => Promise.reject(new TypeError("Failed to fetch")),
    async () => ({ ok: true, status: 200, headers: new Headers(), json: () => Promise.reject(new TypeError("network error")) }),
  ];
  for (const lost of breaks) {
    const waits = [];
    const onProgress = (step, { code }) => waits.push([step, code]);
    let times = 0;
    globalThis.fetch = () => (times++ ? Promise.resolve(new Response("{}")) : lost());
    const { value } = await passing(t, () => call({ ...options, onProgress }, "GET /connect/connection"));
    t.mock.timers.reset();
    assert.deepEqual([value, waits], [{}, [["waiting", "network"]]]);
  }
});

test("slashes at the end of the address are ignored", async () => {
  const urls = [];
  const answer = globalThis.fetch;
  globalThis.fetch = (url, request) => (urls.push(url), answer(url, request));
  answers["/stage/connect/connection"] = () => [200, DONE];
  for (const api of ["https://api.example.test", "https://api.example.test/", "https://api.example.test///", "https://api.example.test/ "]) {
    assert.deepEqual(await call({ ...options, api }, "GET /connect/connection"), DONE);
  }
  await call({ ...options, api: "https://api.example.test/stage/" }, "GET /connect/connection");
  const expected = "https://api.example.test/connect/connection";
  assert.deepEqual(urls, [expected, expected, expected, expected, "https://api.example.test/stage/connect/connection"]);
});

test("an address with and without a slash has the same stored session", async () => {
  const slash = { ...options, api: `${options.api}/` };
  for (const [one, other] of [[options, slash], [slash, options]]) {
    answers["/connect/finish"] = () => [502, { code: "upstream_invalid" }];
    await assert.rejects(connect(one), refused("upstream_invalid"));
    answers["/connect/finish"] = () => [201, DONE];
    assert.deepEqual(await resume(other), DONE);
    assert.equal(remembered(), 0);
  }
  asked.length = 0;
  await Promise.all([connect(options), connect(slash)]);
  assert.deepEqual(asked, ["/connect/session", "/connect/finish"]);
});

/** Makes a call and answers it with these statuses in order; 0 means no answer. The last status repeats. */
async function withStatuses(t, statuses, getToken = async () => "made-up") {
  const refreshes = [];
  let times = 0;
  globalThis.fetch = async () => {
    const status = statuses[Math.min(times++, statuses.length - 1)];
    if (!status) throw new TypeError("Failed to fetch");
    return new Response(JSON.stringify(DONE), { status });
  };
  const asking = (refresh) => (refreshes.push(refresh), getToken(refresh));
  const outcome = await passing(t, () => call({ ...options, getToken: asking }, "GET /connect/connection"));
  t.mock.timers.reset();
  return { refreshes, ...outcome };
}

test("after a 401 that the browser hides, the client gets one new token", async (t) => {
  let { refreshes, value, seconds } = await withStatuses(t, [0, 200]);
  assert.deepEqual([refreshes, value, seconds], [[false, true], DONE, 1]);
  let error;
  ({ refreshes, error, seconds } = await withStatuses(t, [0]));
  assert.deepEqual(refreshes, [false, true, false, false, false, false]);
  assert.equal(error.code, "network");
  assert.ok(seconds <= 60, `${seconds} s`);
});

test("after a hidden and a visible 401, the client gets one new token each", async (t) => {
  for (const [statuses, expected] of [
    [[0, 401, 200], [false, true, true]],
    [[401, 0, 200], [false, true, true]],
    [[503, 0, 503, 0, 200], [false, false, true, false, false]],
  ]) {
    const { refreshes, value } = await withStatuses(t, statuses);
    assert.deepEqual([refreshes, value], [expected, DONE], `${statuses}`);
  }
  const { refreshes, error } = await withStatuses(t, [0, 401]);
  assert.deepEqual([refreshes, error.status], [[false, true, true], 401]);
});

test("if the network is down and no new token is available, the call continues with the last token", async (t) => {
  const offline = (refresh) => (refresh ? Promise.reject(new Error("offline")) : "made-up");
  const { refreshes, value } = await withStatuses(t, [0, 200], offline);
  assert.deepEqual([refreshes, value], [[false, true, false], DONE]);
  const { error } = await withStatuses(t, [0, 401], offline);
  assert.equal(error.message, "offline", "after a visible 401, the failure ends the call");
});
