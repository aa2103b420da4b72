// Tests the browser client in cases that are hard to reach in a browser: refused sign-ins, invalid responses, two users in one tab.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";
import { takeNewerFeatures } from "./older.mjs";

const { createHumanConnect, HumanConnectError } = await import("../../web/human-connect.js");

const connect = (options) => createHumanConnect(options).connect(options);
const resume = (options) => createHumanConnect(options).resume(options);
const getConnection = (options) => createHumanConnect(options).getConnection(options);

const realFetch = globalThis.fetch;
const SESSION = { humanId: "h", clientId: "c", sessionToken: "made-up" };
const OPENED = { flow: "popup", mode: "create", clientId: "c", clientUserId: "u", publicToken: "", finishUrl: "made-up" };
const DONE = { connected: true, sources: [] };

let kept, asked, answers, user;
beforeEach(() => {
  Math.random = () => 1; // the longest wait
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
const refused = (code) => (error) => error instanceof HumanConnectError && error.code === code;

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

test("an answer without JSON means a wrong address, and is not retried", async () => {
  for (const status of [200, 201, 301, 403, 404]) {
    asked.length = 0;
    answers["/connect/connection"] = () => [status, "<!doctype html>"];
    const error = await getConnection(options).catch((error) => error);
    assert.deepEqual([error.code, error.status, asked.length], ["not_json", status, 1]);
    assert.match(error.message, /`api` the backend's address/);
    assert.equal(error.cause.name, "SyntaxError");
  }
});

test("an error says what happened: code, status, cause, request id, and when to try again", async () => {
  answers["/connect/connection"] = () => [409, { code: "finish_in_progress", detail: "made up", requestId: "made-up-id" }];
  const error = await getConnection(options).catch((error) => error);
  const { name, code, status, message, requestId } = error;
  assert.deepEqual([name, code, status, message, requestId], ["HumanConnectError", "finish_in_progress", 409, "made up", "made-up-id"]);
  assert.ok(error instanceof Error && error.stack);
  globalThis.HumanConnect = widget(({ finish }) => finish({ code: "MADE_UP", message: "The popup failed." }));
  const refusal = await connect(options).catch((error) => error);
  assert.deepEqual([refusal.code, refusal.message, refusal.cause.code], ["widget", "The popup failed.", "MADE_UP"]);
});

test("the typed codes are those of openapi.yaml", async () => {
  const types = readFileSync(new URL("../../web/human-connect.d.ts", import.meta.url), "utf8");
  const [, union] = /type BackendErrorCode =([^;]+);/.exec(types);
  const document = readFileSync(new URL("../../docs/api.md", import.meta.url), "utf8");
  const sorted = (matches) => [...matches].map(([, code]) => code).sort();
  // local/tests/openapi.rs compares docs/api.md and openapi.yaml with the code
  assert.deepEqual(sorted(union.matchAll(/"([a-z_]+)"/g)), sorted(document.matchAll(/<a id="([a-z_]+)">/g)));
});

test("the methods call their routes", async () => {
  const sent = [];
  for (const path of ["/connect/session", "/connect/finish", "/connect/public-token", "/connect/connection"]) {
    answers[path] = (body) => (sent.push([path, body]), [200, DONE]);
  }
  const backend = createHumanConnect(options);
  await backend.getSession({ flow: "connect", email: "ada@example.test", refresh: true });
  await backend.finish({ status: "made up" });
  await backend.getPublicToken();
  await backend.getPublicToken({ refresh: true });
  assert.deepEqual(sent, [
    ["/connect/session", { flow: "connect", clientUserEmail: "ada@example.test", refresh: true }],
    ["/connect/finish", { status: "made up" }],
    ["/connect/public-token", {}], ["/connect/public-token", { refresh: true }],
  ]);
  assert.equal(remembered(), 0);
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
  const reloaded = await import("../../web/human-connect.js?reloaded");
  const sent = [];
  answers["/connect/finish"] = (body) => (sent.push(body), [200, { connected: false, sources: [] }]);
  const resumed = await reloaded.createHumanConnect({ ...connectOptions, api: "https://reloaded.example.test" }).resume();
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

test("an abort ends each wait: for the token, an answer, the next attempt, the widget", async (t) => {
  const never = new Promise(() => {});
  const waits = {
    "the token": { getToken: () => never },
    "an answer": { fetch: () => never },
    "the body": { fetch: async () => ({ ok: true, status: 200, headers: new Headers(), json: () => never }) },
    "the next attempt": { fetch: async () => new Response("{}", { status: 503, headers: { "Retry-After": "50" } }) },
    "the client": { loadClient: () => never },
    "the widget": { open: () => {} },
  };
  const ordinary = globalThis.fetch;
  for (const [name, { getToken = options.getToken, loadClient, fetch = ordinary, open }] of Object.entries(waits)) {
    globalThis.fetch = fetch;
    globalThis.HumanConnect = { open };
    const backend = createHumanConnect({ ...options, getToken, loadClient });
    const leaving = new AbortController();
    const calls = [backend.connect({ flow: "popup", signal: leaving.signal }).catch((error) => error)];
    if (!loadClient && !open) calls.push(backend.getConnection({ signal: leaving.signal }).catch((error) => error));
    for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
    leaving.abort(new RangeError(`made up: left during ${name}`));
    for (const call of calls) assert.match((await call).message, new RegExp(`left during ${name}`));
    // a call after the abort does not begin
    await assert.rejects(backend.forget({ signal: leaving.signal }), RangeError);
  }
  assert.ok(!asked.includes("/connect/finish"));
});

test("of joined callers, one who aborts leaves alone, and the last one ends the connect", async () => {
  asConnect();
  answers["/connect/finish"] = () => [200, { connected: false, sources: [] }];
  let opened = 0;
  globalThis.HumanConnect = { open: () => void (opened += 1) };
  const [one, other] = [new AbortController(), new AbortController()];
  const backend = createHumanConnect(options);
  const first = backend.connect({ signal: one.signal });
  const second = backend.connect({ signal: other.signal });
  const resumed = backend.resume();
  for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
  one.abort();
  await assert.rejects(first, { name: "AbortError" });
  const third = backend.connect({ signal: other.signal });
  for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
  assert.equal(opened, 1);
  other.abort();
  for (const call of [second, third, resumed]) await assert.rejects(call, { name: "AbortError" });
  // a connect at the moment of the last abort does not join the aborted one
  const [last, later] = [new AbortController(), new AbortController()];
  const leaving = backend.connect({ signal: last.signal }).catch((error) => error);
  for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
  last.abort();
  const next = backend.connect({ signal: later.signal }).catch((error) => error);
  assert.equal((await leaving).name, "AbortError");
  for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
  assert.equal(opened, 3);
  later.abort();
  assert.equal((await next).name, "AbortError");
  const early = new AbortController();
  const getToken = async () => (early.abort(), token(user)); // the abort comes when the token is here
  await assert.rejects(createHumanConnect({ ...options, getToken }).connect({ signal: early.signal }), { name: "AbortError" });
  assert.equal(opened, 3);
  // the next connect is a new one
  globalThis.HumanConnect = widget(({ onClose }) => onClose({}));
  assert.equal((await backend.connect()).connected, false);
});

/** A document with a page and Human API's frames, as far as the module needs one. */
function madeUpDocument() {
  const listeners = new Set();
  const remove = (id) => (body.children = body.children.filter((child) => child.id !== id));
  const element = (id) => ({ id, style: {}, inert: false, remove: () => remove(id), focus: () => (document.activeElement = node(id)) });
  const node = (id) => body.children.find((child) => child.id === id);
  const body = { children: ["page", "opener"].map(element), append: (child) => body.children.push(Object.assign(child, { id: "close" })) };
  const document = { body, getElementById: node, createElement: () => element("close") };
  document.activeElement = node("opener");
  /** Behaves like Human API's Connect client. */
  const open = (options) => {
    body.children.push(...["human-api", "human-api-connect-modal-overlay"].map(element));
    const onMessage = ({ data }) => {
      if (data.type !== "hapi-connect-close") return;
      removeEventListener("message", onMessage);
      options.onClose({});
      for (const id of ["human-api", "human-api-connect-modal-overlay"]) node(id).remove();
    };
    addEventListener("message", onMessage);
  };
  const dispatch = (type, event) => [...listeners].forEach(([wanted, listen]) => wanted === type && listen(event));
  globalThis.document = document;
  globalThis.dispatchEvent = (event) => dispatch(event.type, event);
  globalThis.addEventListener = (...listener) => listeners.add(listener);
  globalThis.removeEventListener = (type, listen) => [...listeners].forEach((known) => known[1] === listen && listeners.delete(known));
  const restore = () => {
    for (const name of ["document", "dispatchEvent", "addEventListener", "removeEventListener"]) delete globalThis[name];
  };
  return { document, body, node, open, dispatch, listeners, restore };
}

test("while the widget is open, the page is inert, and the focus returns", async (t) => {
  asConnect();
  const page = madeUpDocument();
  t.after(page.restore);
  globalThis.HumanConnect = page;
  const connecting = connect(connectOptions);
  for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
  assert.deepEqual(page.body.children.map(({ inert }) => inert), [true, true, false, false]);
  page.dispatch("message", { data: { type: "hapi-connect-close" } });
  await connecting;
  assert.ok(page.body.children.every(({ inert }) => !inert));
  assert.deepEqual([page.document.activeElement.id, page.listeners.size], ["opener", 0]);
});

test("a widget that sends no message can be closed", async (t) => {
  asConnect();
  const page = madeUpDocument();
  t.after(page.restore);
  globalThis.HumanConnect = page;
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const opening = connect({ ...connectOptions, closeLabel: "Close it" });
  for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
  t.mock.timers.tick(7999);
  assert.equal(page.node("close"), undefined);
  t.mock.timers.tick(1);
  assert.equal(page.node("close").textContent, "Close it");
  page.node("close").onclick();
  assert.deepEqual(await opening, DONE);
  assert.deepEqual(page.body.children.map(({ id }) => id), ["page", "opener"]);
  // a widget that has sent a message has loaded
  const leaving = new AbortController();
  const connecting = connect({ ...connectOptions, signal: leaving.signal });
  for (let ticks = 0; ticks < 20; ticks++) await new Promise(setImmediate);
  page.dispatch("message", { data: { type: "made up" } });
  page.dispatch("message", { data: { type: "hapi-connect-connect-source" } });
  t.mock.timers.tick(60_000);
  assert.equal(page.node("close"), undefined);
  leaving.abort();
  await assert.rejects(connecting, { name: "AbortError" });
  assert.deepEqual(page.body.children.map(({ id }) => id), ["page", "opener"], "an abort removes the widget");
  assert.equal(page.listeners.size, 0, "a listener that stays would take the next widget's close");
});

test("a stored value that cannot be read is not posted", async () => {
  kept["human-connect https://api.example.test ada"] = "{half";
  assert.equal(await resume(options), null);
  assert.deepEqual(await connect(options), DONE);
  assert.equal(remembered(), 0);
});

test("an exception in onEvent does not end the call", async () => {
  const reported = [];
  const listener = (error) => reported.push(error.message);
  process.prependListener("uncaughtException", listener);
  const others = process.listeners("uncaughtException").filter((other) => other !== listener);
  for (const other of others) process.removeListener("uncaughtException", other);
  try {
    const onEvent = ({ type }) => {
      throw new Error(`made up, at ${type}`);
    };
    assert.deepEqual(await connect({ ...options, onEvent }), DONE);
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
    const { value, error } = await passing(t, () => getConnection(options));
    t.mock.timers.reset();
    assert.equal(again ? value?.connected : error?.status, again ? true : status, `${status}`);
    assert.equal(times, again ? 2 : 1, `${status}`);
  }
});

test("the client waits for Retry-After, and does not retry forever", async (t) => {
  for (const [after, seconds] of [["7", 7], ["0", 1], ["-5", 1], ["0.001", 1], ["Wed, 21 Oct 2026 07:28:00 GMT", 1]]) {
    let times = 0;
    answers["/connect/connection"] = () => (times++ ? [200, DONE] : [409, { code: "finish_in_progress" }, { "Retry-After": after }]);
    const waited = await passing(t, () => getConnection(options));
    t.mock.timers.reset();
    assert.deepEqual([waited.value, waited.seconds], [DONE, seconds], after);
  }
  const busy = { code: "finish_in_progress", requestId: "made-up-request" };
  answers["/connect/connection"] = () => [409, busy, { "Retry-After": "9" }];
  const { error, seconds } = await passing(t, () => getConnection(options));
  assert.deepEqual([error.code, error.retryAfter, error.requestId], ["finish_in_progress", 9, "made-up-request"]);
  assert.ok(seconds <= 60, `${seconds} s`);
});

test("waits grow, are partly random, and are never shorter than Retry-After", async (t) => {
  for (const [random, after, expected] of [
    [1, null, [1, 2, 4, 8, 16, 16]], [0, null, [0.5, 1, 2, 4, 8, 8, 8, 8, 8, 8]], [1, "3", [3, 3, 4, 8, 16, 16]], [0, "30", [30, 30]],
  ]) {
    Math.random = () => random;
    answers["/connect/connection"] = () => [503, { code: "store_unavailable" }, after ? { "Retry-After": after } : {}];
    const waits = [];
    const onEvent = ({ type, seconds }) => type === "waiting" && waits.push(seconds);
    const { error } = await passing(t, () => getConnection({ ...options, onEvent }));
    t.mock.timers.reset();
    assert.equal(error.code, "store_unavailable");
    assert.deepEqual(waits, expected);
  }
});

test("an expired token is replaced only once", async () => {
  asConnect();
  const bodies = [];
  answers["/connect/session"] = (body) => (bodies.push(body), [200, { flow: "connect", mode: "create", token: "made-up" }]);
  globalThis.HumanConnect = widget(({ onClose }) => onClose({ status: "SESSION_TOKEN_EXPIRED" }));
  await connect({ ...connectOptions, email: "ada@example.test" });
  const wanted = { flow: "connect", clientUserEmail: "ada@example.test" };
  assert.deepEqual(bodies, [wanted, { ...wanted, refresh: true }]);
  let tokens = 0;
  answers["/connect/connection"] = () => [401, { message: "Unauthorized" }];
  await assert.rejects(getConnection({ ...options, getToken: async () => (tokens++, "made-up") }), refused("gateway"));
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

test("the widget gets its parameters, and onEvent gets each event", async () => {
  const events = [];
  const onEvent = (event) => events.push(event);
  globalThis.HumanConnect = widget(({ clientUserId, clientId, publicToken, close }) => {
    events.push([clientUserId, clientId, publicToken]);
    close();
  });
  assert.deepEqual(await connect({ ...options, onEvent }), DONE);
  asConnect();
  globalThis.HumanConnect = widget(({ token, onConnectSource, onDisconnectSource, onClose }) => {
    events.push([token]);
    onConnectSource({ status: "one" });
    onDisconnectSource({ status: "other" });
    onClose({});
  });
  await connect({ ...connectOptions, onEvent });
  assert.deepEqual(events, [
    { type: "starting" }, { type: "opened", flow: "popup", mode: "create" }, ["u", "c", ""], { type: "closed" },
    { type: "starting" }, { type: "opened", flow: "connect", mode: "create" }, ["made-up"],
    { type: "source-connected", report: { status: "one" } }, { type: "source-disconnected", report: { status: "other" } },
    { type: "finishing" }, { type: "finished", connection: DONE },
  ]);
});

test("options of Human API's client pass through, but no token, no id and no callback", async () => {
  const given = [];
  globalThis.HumanConnect = widget((options) => (given.push(options), (options.onClose ?? options.close)({})));
  const eve = () => assert.fail("a callback of the page");
  const widgetOptions = {
    mode: "auth", segment: "a", pinnedProviders: "1,2", preseed: true, enableFocusTrap: true, language: "de", baseURL: "https://widget.example.test",
    token: "eve", clientId: "eve", clientUserId: "eve", publicToken: "eve", onClose: eve, finish: eve, close: eve, logger: eve,
  };
  await connect({ ...options, widget: widgetOptions });
  asConnect();
  await connect({ ...connectOptions, widget: widgetOptions });
  const passed = { mode: "auth", segment: "a", pinnedProviders: "1,2", preseed: true, enableFocusTrap: true, language: "de", baseURL: "https://widget.example.test" };
  for (const [options, ours] of [[given[0], { clientId: "c", clientUserId: "u", publicToken: "" }], [given[1], { token: "made-up" }]]) {
    const values = Object.entries(options).filter(([, value]) => typeof value !== "function");
    assert.deepEqual(Object.fromEntries(values), { ...passed, ...ours });
    assert.ok(!Object.values(options).includes(eve));
  }
});

test("loadClient loads the client of the generation that the backend has chosen", async () => {
  const flows = [];
  const client = globalThis.HumanConnect;
  delete globalThis.HumanConnect;
  const loadClient = async (flow) => (flows.push(flow), client);
  assert.deepEqual(await connect({ ...options, flow: "connect", loadClient }), DONE);
  assert.deepEqual(flows, ["popup"]);
  const broken = () => Promise.reject(new Error("made up: the script did not load"));
  await assert.rejects(connect({ ...options, loadClient: broken }), /made up: the script did not load/);
});

test("a delete has a response without a body", async () => {
  answers["/connect/connection"] = () => [204];
  assert.deepEqual(await createHumanConnect(options).forget(), {});
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
  const types = [];
  const onEvent = ({ type }) => types.push(type);
  let times = 0;
  answers["/connect/session"] = () => (times++ ? [200, OPENED] : [503, {}, { "Retry-After": "1" }]);
  assert.deepEqual(await connect({ ...options, onEvent }), DONE);
  assert.deepEqual(types, ["starting", "waiting", "opened", "finishing", "finished"]);
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
  const events = [];
  const given = { ...options, onEvent: ({ type }) => type === "finishing" || events.push(type) };
  const finish = (body, more) => createHumanConnect({ ...given, ...more }).finish(body);
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
  assert.deepEqual([asked, events], [[], []]);
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
    const { value, seconds } = await passing(t, () => getConnection(options));
    t.mock.timers.tick(60_000);
    t.mock.timers.reset();
    assert.deepEqual(value, {}, name);
    assert.equal(seconds, 36, name);
    assert.deepEqual(signals.map(({ aborted }) => aborted), [true, false], `${name}: the second timer has ended`);
  }
});

test("a refusal whose body never arrives is a refusal", async (t) => {
  globalThis.fetch = async () => ({ ok: false, status: 403, headers: new Headers(), json: () => new Promise(() => {}) });
  const { error, seconds } = await passing(t, () => getConnection(options));
  assert.deepEqual([error.status, error.code, seconds], [403, "gateway", 35]);
});

test("a broken connection has the code network, even within the body", async (t) => {
  const breaks = [
    () => Promise.reject(new TypeError("Failed to fetch")),
    async () => ({ ok: true, status: 200, headers: new Headers(), json: () => Promise.reject(new TypeError("network error")) }),
  ];
  for (const lost of breaks) {
    const waits = [];
    const onEvent = ({ type, code }) => waits.push([type, code]);
    let times = 0;
    globalThis.fetch = () => (times++ ? Promise.resolve(new Response("{}")) : lost());
    const { value } = await passing(t, () => getConnection({ ...options, onEvent }));
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
    assert.deepEqual(await getConnection({ ...options, api }), DONE);
  }
  await getConnection({ ...options, api: "https://api.example.test/stage/" });
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
  const outcome = await passing(t, () => getConnection({ ...options, getToken: asking }));
  t.mock.timers.reset();
  return { refreshes, ...outcome };
}

test("after a 401 that the browser hides, the client gets one new token", async (t) => {
  let { refreshes, value, seconds } = await withStatuses(t, [0, 200]);
  assert.deepEqual([refreshes, value, seconds], [[false, true], DONE, 1]);
  let error;
  ({ refreshes, error, seconds } = await withStatuses(t, [0]));
  assert.deepEqual(refreshes, [false, true, false, false, false, false, false]);
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

test("on a server, the React hook renders without a call", async () => {
  const { createElement } = await import("react");
  const { renderToString } = await import("react-dom/server");
  const { useHumanConnect } = await import("human-connect/react");
  const Page = ({ user }) => {
    const { connection, status, error } = useHumanConnect({ ...options, user });
    return createElement("p", null, [status, connection, error].map(String).join(" "));
  };
  assert.equal(renderToString(createElement(Page, { user: "ada" })), "<p>loading undefined undefined</p>");
  assert.equal(renderToString(createElement(Page, { user: null })), "<p>signed-out undefined undefined</p>");
  assert.deepEqual(asked, []);
});
