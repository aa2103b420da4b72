// The browser client where a browser cannot easily be brought: refused sign-ins, answers that are none, two users in one tab.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

const { call, connect, resume, ConnectError } = await import("../../web/human-connect-backend.js");

const SESSION = { humanId: "h", clientId: "c", sessionToken: "made-up" };
const OPENED = { flow: "popup", mode: "create", clientId: "c", clientUserId: "u", publicToken: "", finishUrl: "made-up" };
const DONE = { connected: true, sources: [] };

let kept, asked, answers, user;
beforeEach(() => {
  [kept, asked, user] = [new Map(), [], "ada"];
  answers = { "/connect/session": () => [200, OPENED], "/connect/finish": () => [201, DONE], "/connect/connection": () => [200, DONE] };
  globalThis.sessionStorage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
  globalThis.fetch = async (url) => {
    const path = new URL(url).pathname;
    asked.push(path);
    const [status, body] = answers[path]();
    return new Response(typeof body === "string" ? body : JSON.stringify(body), { status });
  };
  globalThis.HumanConnect = { open: ({ finish }) => setTimeout(finish, 0, null, SESSION) };
});

const token = (sub) => `x.${btoa(JSON.stringify({ sub }))}.x`;
const options = { api: "https://api.example.test", flow: "popup", getToken: async () => token(user) };
const refused = (code) => (error) => error instanceof ConnectError && error.code === code;

test("a session is kept until a verdict, and posted when the page is there again", async () => {
  for (const [status, code] of [[502, "upstream_unauthorized"], [502, "upstream_invalid"], [403, undefined], [404, undefined]]) {
    answers["/connect/finish"] = () => [status, { code, message: "made up" }];
    await assert.rejects(connect(options), refused(code ?? "gateway"));
    assert.equal(kept.size, 1, code);
    answers["/connect/finish"] = () => [201, DONE];
    assert.deepEqual(await resume(options), DONE);
    assert.equal(kept.size, 0);
  }
  answers["/connect/finish"] = () => [422, { code: "session_rejected" }];
  await assert.rejects(connect(options), refused("session_rejected"));
  assert.equal(kept.size, 0);
});

test("a sign-in that fails during finish loses nothing", async () => {
  let gone = false;
  const getToken = async (refresh) => {
    if (refresh && gone) throw new Error("offline");
    return token(user);
  };
  answers["/connect/finish"] = () => ((gone = true), [401, { message: "Unauthorized" }]);
  await assert.rejects(connect({ ...options, getToken }), /offline/);
  assert.equal(kept.size, 1);
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
  globalThis.sessionStorage = new Proxy({}, { get: () => () => { throw new Error("denied"); } });
  assert.deepEqual(await connect(options), DONE);
});
