// The browser client where a browser cannot easily be brought: refused sign-ins, answers that are none, two users in one tab.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

const { call, connect, resume, ConnectError } = await import("../../web/human-connect-backend.js");

const SESSION = { humanId: "h", clientId: "c", sessionToken: "made-up" };
const OPENED = { flow: "popup", mode: "create", clientId: "c", clientUserId: "u", publicToken: "", finishUrl: "made-up" };
const DONE = { connected: true, sources: [] };

let kept, asked, answers, user;
beforeEach(() => {
  [kept, asked, user] = [{}, [], "ada"];
  answers = { "/connect/session": () => [200, OPENED], "/connect/finish": () => [201, DONE], "/connect/connection": () => [200, DONE] };
  globalThis.sessionStorage = kept;
  globalThis.fetch = async (url, { body: sent }) => {
    const path = new URL(url).pathname;
    asked.push(path);
    const [status, body] = answers[path](sent && JSON.parse(sent));
    return new Response(typeof body === "string" ? body : JSON.stringify(body), { status });
  };
  globalThis.HumanConnect = { open: ({ finish }) => setTimeout(finish, 0, null, SESSION) };
});

const token = (sub) => `x.${btoa(JSON.stringify({ sub }))}.x`;
const options = { api: "https://api.example.test", flow: "popup", getToken: async () => token(user) };
const remembered = () => Object.keys(kept).length;
const refused = (code) => (error) => error instanceof ConnectError && error.code === code;

test("a session is kept until a verdict, and posted when the page is there again", async () => {
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

test("an answer that is no JSON is none", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  answers["/connect/connection"] = () => [200, "<!doctype html>"];
  const asking = assert.rejects(call(options, "GET /connect/connection"), refused("network"));
  for (let second = 0; second < 70; second++) {
    await new Promise(setImmediate);
    t.mock.timers.tick(1000);
  }
  await asking;
});

test("who signs in while the widget is open does not post another's session", async () => {
  globalThis.HumanConnect = { open: ({ finish }) => ((user = "eve"), setTimeout(finish, 0, null, SESSION)) };
  await assert.rejects(connect(options), refused("user_changed"));
  assert.equal(await resume(options), null, "eve has none");
  user = "ada";
  assert.deepEqual(await resume(options), DONE);
  assert.deepEqual(asked, ["/connect/session", "/connect/finish"]);
});

test("two users' calls at once are two, one user's are one", async () => {
  const as = (sub) => ({ ...options, getToken: async () => token(sub) });
  await Promise.all([connect(as("ada")), connect(as("ada")), connect(as("eve"))]);
  assert.equal(asked.filter((path) => path === "/connect/session").length, 2);
});

test("a browser that keeps nothing connects all the same", async () => {
  const denied = () => {
    throw new Error("denied");
  };
  globalThis.sessionStorage = new Proxy({}, { get: denied, set: denied, deleteProperty: denied });
  assert.deepEqual(await connect(options), DONE);
});

/** Human API's Connect client; `act` says what happens in its widget. */
const widget = (act) => ({ open: (given) => setTimeout(act, 0, given) });
const connectOptions = { ...options, flow: "connect" };
const asConnect = () => (answers["/connect/session"] = () => [200, { flow: "connect", mode: "create", token: "made-up" }]);

test("a Connect widget that a reload took away is asked for when the page is there again", async () => {
  asConnect();
  let gone;
  globalThis.HumanConnect = widget(() => gone());
  const left = new Promise((resolve) => (gone = resolve));
  connect({ ...connectOptions, api: "https://reloaded.example.test" });
  await left; // the page is gone; nothing was posted
  const sent = [];
  answers["/connect/finish"] = (body) => (sent.push(body), [200, { connected: false, sources: [] }]);
  assert.deepEqual(await resume({ ...connectOptions, api: "https://reloaded.example.test" }), { connected: false, sources: [] });
  assert.deepEqual(sent, [{}]);
  assert.equal(remembered(), 0);
});

test("what was left without a connection is no reason not to open the widget", async () => {
  asConnect();
  answers["/connect/finish"] = ({ status }) => [201, { connected: status === "closed", sources: [] }];
  globalThis.HumanConnect = widget(({ onClose }) => onClose({ status: "closed" }));
  kept["human-connect https://api.example.test ada"] = "{}";
  assert.equal((await connect(connectOptions)).connected, true);
  assert.deepEqual(asked, ["/connect/finish", "/connect/session", "/connect/finish"]);
});

test("a popup that knows the user is followed by the Connect widget", async () => {
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

test("a widget that is open already, or a client that is not there, is said", async () => {
  asConnect();
  globalThis.HumanConnect = { open: () => null };
  await assert.rejects(connect(connectOptions), refused("widget"));
  delete globalThis.HumanConnect;
  await assert.rejects(connect(connectOptions), refused("widget"));
});

test("a page that is left waits for no widget", async () => {
  asConnect();
  const leaving = new AbortController();
  globalThis.HumanConnect = widget(() => leaving.abort());
  await assert.rejects(connect({ ...connectOptions, signal: leaving.signal }), { name: "AbortError" });
  answers["/connect/finish"] = () => [200, { connected: false, sources: [] }];
  globalThis.HumanConnect = { open: () => assert.fail("nobody is there to use it") };
  await assert.rejects(connect({ ...connectOptions, signal: leaving.signal }), { name: "AbortError" });
});

test("what cannot be read is not posted", async () => {
  kept["human-connect https://api.example.test ada"] = "{half";
  assert.equal(await resume(options), null);
  assert.deepEqual(await connect(options), DONE);
  assert.equal(remembered(), 0);
});

test("a fault in the page's own onProgress ends nothing", async () => {
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
