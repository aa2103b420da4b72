// Tests Human API's real browser client and the example pages in a real browser, against the real functions. Each flow checks the page
// and the user's row, and saves a screenshot.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Widget, World, listen } from "./world.mjs";

const HOSPITAL = "Mount Invented Hospital";
const WATCH = "Pretend Pace Watch";

let world;
before(async () => (world = await World.start()));
after(() => world?.close());

let number = 0;
/** A test with a new user. The browser's console may show only the expected errors. */
function flow(name, play, expected = /^$/) {
  test(name, { timeout: 60_000 }, async () => {
    const visitor = await world.visitor(`user-${++number}@example.test`);
    try {
      await play(visitor);
      assert.deepEqual(visitor.complaints.filter((text) => !expected.test(text)), []);
    } catch (error) {
      await visitor.failed(name);
      throw error;
    } finally {
      await visitor.context.close();
    }
  });
}

const says = (page, text) => page.getByRole("status").getByText(text).waitFor();
const press = (page) => page.getByRole("button", { name: /Connect health data|Change what is connected/ }).click();

/** Opens the widget and acts in it. `act` also closes the widget. */
async function visit(page, act) {
  await press(page);
  const widget = await Widget.in(page);
  await act(widget);
}

/** Returns the response to the request that `act` causes. The page may still show an older state, so its text would be no proof. */
async function answered(page, route, act) {
  const [method, path] = route.split(" ");
  const ours = (answer) => answer.url() === world.api + path && answer.request().method() === method;
  const [answer] = await Promise.all([page.waitForResponse(ours), act()]);
  await answer.finished();
  await page.getByRole("button", { name: /health data|what is connected/, disabled: false }).waitFor();
  return answer.json();
}

const connects = (source) => async (widget) => {
  await widget.connect(source);
  await widget.done();
};

async function has(user, expected) {
  const row = await world.row(user);
  for (const [field, value] of Object.entries(expected)) {
    const found = Object.entries(row ?? {}).filter(([name]) => name === field || name.startsWith(`${field}.`));
    const text = found.map(([, shown]) => JSON.stringify(shown)).join(" ");
    if (value === null) assert.equal(text, "", `${field} is in the row`);
    else assert.match(text, value, `${field} of ${JSON.stringify(row)}`);
  }
}

flow("a new user connects a source", async (visitor) => {
  const page = await visitor.open("page.html");
  await says(page, "Nothing connected yet.");
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  await has(visitor.user, { accessToken: /sealed/, humanId: /./, flow: /connect/, sources: /Mount Invented/, pending: null });
  assert.equal((await world.accessToken(visitor.user)).status, 200);
  await visitor.leave(page, "new-user");
});

flow("a returning user sees the connected sources", async (visitor) => {
  const page = await visitor.open("page.html");
  await visit(page, connects(HOSPITAL));
  await says(page, HOSPITAL);
  await page.reload();
  await says(page, `Connected: ${HOSPITAL}`);
  const again = await answered(page, "POST /connect/finish", () =>
    visit(page, async (widget) => {
      await widget.frame.getByRole("button", { name: `Disconnect ${HOSPITAL}` }).waitFor();
      await widget.close();
    }),
  );
  assert.equal(again.connected, true);
  await says(page, `Connected: ${HOSPITAL}`);
  await has(visitor.user, { "widgetToken.kind": /id_token/, sources: /Mount Invented/ });
  await visitor.leave(page, "returning-user");
});

flow("two sources, one after the other", async (visitor) => {
  const page = await visitor.open("page.html");
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  await visit(page, connects(WATCH));
  await says(page, WATCH);
  await has(visitor.user, { sources: /Mount Invented.*Pretend Pace|Pretend Pace.*Mount Invented/ });
  await visitor.leave(page, "two-sources");
});

flow("a user disconnects the last source", async (visitor) => {
  const page = await visitor.open("page.html");
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  await visit(page, async (widget) => {
    await widget.disconnect(HOSPITAL);
    await widget.done();
  });
  await says(page, "Nothing connected yet.");
  await has(visitor.user, { accessToken: null, revoked: /true/ });
  assert.equal((await world.accessToken(visitor.user)).status, 410);
  await visitor.leave(page, "disconnected");
});

flow("a user opens the widget and connects nothing", async (visitor) => {
  const page = await visitor.open("page.html");
  await says(page, "Nothing connected yet.");
  const finished = page.waitForResponse((answer) => answer.url().endsWith("/connect/finish"));
  await visit(page, (widget) => widget.close());
  assert.equal((await finished).status(), 200);
  await says(page, "Nothing connected yet.");
  await has(visitor.user, { accessToken: null, pending: null });
  await visitor.leave(page, "closed");
});

flow("a token that has expired in the widget is replaced once", async (visitor) => {
  let expired = 0;
  await visitor.context.route("https://hapi-connect.humanapi.co/widget/open", (route) => {
    if (expired++) return route.fallback();
    return route.fulfill({ status: 401, contentType: "application/json", body: '{"status":"SESSION_TOKEN_EXPIRED"}' });
  });
  const page = await visitor.open("page.html");
  await press(page);
  const first = await Widget.in(page);
  await first.leave(first.frame.getByRole("button", { name: "Back to the app" }));
  const second = await Widget.in(page);
  await second.connect(HOSPITAL);
  await second.done();
  await says(page, `Connected: ${HOSPITAL}`);
  await visitor.leave(page, "expired-in-the-widget");
}, /401/);

flow("a double click starts one session and opens one widget", async (visitor) => {
  const page = await visitor.open("page.html");
  await says(page, "Nothing connected yet.");
  let sessions = 0;
  page.on("request", (request) => (sessions += request.method() === "POST" && request.url().endsWith("/connect/session")));
  await page.evaluate(() => {
    const button = document.getElementById("connect");
    button.onclick();
    button.onclick();
  });
  const widget = await Widget.in(page);
  await connects(HOSPITAL)(widget);
  await says(page, `Connected: ${HOSPITAL}`);
  assert.equal(sessions, 1);
  assert.equal(await page.locator("#human-api").count(), 0);
  await visitor.leave(page, "double-click");
});

flow("a popup's session survives a reload before the response to its finish", async (visitor) => {
  const page = await visitor.open("popup-client.html");
  let cut = true;
  await visitor.context.route("**/connect/finish", (route) => (cut ? undefined : route.fallback()));
  await visit(page, connects(HOSPITAL));
  await page.waitForFunction(() => sessionStorage.length > 0);
  await has(visitor.user, { accessToken: null });
  cut = false;
  await page.reload();
  await says(page, "Connected by popup.");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await has(visitor.user, { accessToken: /sealed/, publicToken: /sealed/, pending: null });
  await visitor.leave(page, "reloaded");
});

flow("a reload while the Connect widget is open loses nothing", async (visitor) => {
  const page = await visitor.open("page.html");
  await says(page, "Nothing connected yet.");
  await press(page);
  await (await Widget.in(page)).connect(HOSPITAL);
  await has(visitor.user, { accessToken: null });
  await page.reload();
  await says(page, "Connected: yes"); // only the widget reports the sources
  await has(visitor.user, { accessToken: /sealed/, pending: null });
  assert.equal((await world.accessToken(visitor.user)).status, 200);
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await visit(page, connects(WATCH));
  await says(page, WATCH);
  await visitor.leave(page, "reloaded-in-the-widget");
});

flow("if a reload loses a popup's session, the Connect widget connects the user", async (visitor) => {
  const page = await visitor.open("popup-client.html");
  await says(page, "Nothing connected yet.");
  await press(page);
  await (await Widget.in(page)).connect(HOSPITAL);
  await page.reload(); // before Finish: the page got no session, but Human API knows the user
  await says(page, "Nothing connected yet.");
  await press(page);
  const popup = await Widget.in(page);
  await popup.frame.getByText("User Already Exists").waitFor();
  await popup.close();
  const widget = await Widget.in(page);
  assert.equal(await widget.outer.getAttribute("id"), "human-api");
  await widget.done();
  await says(page, "Connected by connect.");
  await has(visitor.user, { accessToken: /sealed/, pending: null });
  assert.equal((await world.accessToken(visitor.user)).status, 200);
  await visitor.leave(page, "popup-knows-the-user");
}, /409/);

flow("one user in two tabs", async (visitor) => {
  const [one, other] = [await visitor.open("page.html"), await visitor.open("page.html")];
  await press(one);
  await press(other);
  const [first, second] = [await Widget.in(one), await Widget.in(other)];
  await first.connect(HOSPITAL);
  await second.connect(WATCH);
  // the page shows the report of the widget that closes last, and only the second widget knows both sources
  await first.done();
  await says(one, /Connected:/);
  await second.done();
  await says(other, /Connected:/);
  const both = /Mount Invented.*Pretend Pace|Pretend Pace.*Mount Invented/;
  await has(visitor.user, { accessToken: /sealed/, sources: both, pending: null });
  assert.equal((await world.accessToken(visitor.user)).status, 200);
  await visitor.leave(other, "two-tabs");
});

flow("the network fails during finish and comes back", async (visitor) => {
  const page = await visitor.open("page.html");
  let lost = 0;
  await visitor.context.route("**/connect/finish", async (route) => {
    if (route.request().method() !== "POST" || lost++) return route.fallback();
    await route.fetch(); // the function has finished, but its response does not arrive
    return route.abort("internetdisconnected");
  });
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  assert.ok(lost >= 2);
  await has(visitor.user, { accessToken: /sealed/, pending: null });
  await visitor.leave(page, "network-cut");
}, /ERR_INTERNET_DISCONNECTED/);

flow("a call that gets 409 because of another call is sent again after Retry-After", async (visitor) => {
  const page = await visitor.open("page.html");
  let busy = 0;
  await visitor.context.route("**/connect/finish", (route) => {
    if (route.request().method() !== "POST" || busy++) return route.fallback();
    return route.fulfill({
      status: 409,
      headers: {
        "access-control-allow-origin": world.origin, "access-control-expose-headers": "Retry-After", "retry-after": "1",
      },
      json: { code: "finish_in_progress", detail: "made up" },
    });
  });
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  assert.equal(busy, 2);
  await visitor.leave(page, "locked");
}, /409/);

flow("an expired sign-in is refreshed", async (visitor) => {
  visitor.tokens.push("made-up.expired.token");
  const page = await visitor.open("page.html");
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  assert.equal(visitor.tokens.length, 2);
  await visitor.leave(page, "sign-in-refreshed");
}, /401/);

flow("an old browser can connect with either generation", async (visitor) => {
  await visitor.ages();
  const page = await visitor.open("page.html");
  const newer = () => [
    AbortSignal.timeout, AbortSignal.any, AbortSignal.prototype.throwIfAborted, new AbortController().signal.reason,
    window.structuredClone, crypto.randomUUID, [].at, Object.hasOwn,
  ];
  assert.deepEqual((await page.evaluate(newer)).filter(Boolean), []);
  await says(page, "Nothing connected yet.");
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  await page.reload();
  await says(page, `Connected: ${HOSPITAL}`);
  await has(visitor.user, { accessToken: /sealed/, pending: null });
  await visitor.leave(page, "old-browser");
  visitor.user = `popup-${visitor.user}`;
  visitor.tokens.length = 0;
  const popup = await visitor.open("popup-client.html");
  await visit(popup, connects(WATCH));
  await says(popup, "Connected by popup.");
  await has(visitor.user, { accessToken: /sealed/, publicToken: /sealed/, pending: null });
  await visitor.leave(popup, "old-browser-popup");
});

for (const [example, connected] of Object.entries({ "page.html": `Connected: ${HOSPITAL}`, "popup.html": "Connected." })) {
  flow(`${example} works with a backend address that ends in slashes`, async (visitor) => {
    world.slashes = "//";
    try {
      const page = await visitor.open(example);
      await says(page, "Nothing connected yet.");
      await visit(page, connects(HOSPITAL));
      await says(page, connected);
      await visitor.leave(page, `slashes-${example.replace(".html", "")}`);
    } finally {
      world.slashes = "";
    }
  });
}

test("an expired sign-in is refreshed once if API Gateway's 401 has no CORS headers", { timeout: 60_000 }, async () => {
  const hiding = await World.start({ CORS_ON_REFUSALS: "false" });
  try {
    for (const example of ["page.html", "popup.html"]) {
      const visitor = await hiding.visitor("user-of-a-hidden-401@example.test");
      visitor.tokens.push("made-up.expired.token");
      const page = await visitor.open(example);
      await says(page, "Nothing connected yet.");
      assert.deepEqual(visitor.refreshes.filter(Boolean), [true], example);
      assert.equal(visitor.tokens.length, 2);
      assert.ok(visitor.complaints.some((text) => /CORS policy/.test(text)), `${visitor.complaints}`);
      assert.deepEqual(visitor.complaints.filter((text) => !/CORS policy|ERR_FAILED/.test(text)), []);
      await visitor.leave(page, `hidden-401-${example.replace(".html", "")}`);
      await visitor.context.close();
    }
  } finally {
    await hiding.close();
  }
});

flow("the popup of Human API's guide, with jQuery's $.post", async (visitor) => {
  const page = await visitor.open("popup.html");
  await visit(page, async (widget) => {
    await widget.connect(HOSPITAL);
    await Promise.all([page.waitForEvent("load"), widget.done()]);
  });
  await has(visitor.user, { accessToken: /sealed/, publicToken: /sealed/, flow: /popup/, pending: null });
  await visit(page, async (widget) => {
    await widget.frame.getByRole("button", { name: `Disconnect ${HOSPITAL}` }).waitFor();
    await widget.connect(WATCH);
    await Promise.all([page.waitForEvent("load"), widget.done()]);
  });
  assert.equal((await world.accessToken(visitor.user)).status, 200);
  await visitor.leave(page, "popup-jquery");
});

flow("a lost publicToken of a popup user is recovered", async (visitor) => {
  const page = await visitor.open("popup-client.html");
  await visit(page, connects(HOSPITAL));
  await says(page, "Connected by popup.");
  await world.switch("lose-public-token", { user: visitor.user });
  await has(visitor.user, { publicToken: null });
  await page.reload();
  const after = await answered(page, "GET /connect/connection", () =>
    visit(page, async (widget) => {
      await widget.frame.getByRole("button", { name: `Disconnect ${HOSPITAL}` }).waitFor();
      await widget.close();
    }),
  );
  assert.equal(after.flow, "popup");
  await says(page, "Connected by popup.");
  await has(visitor.user, { publicToken: /sealed/ });
  await visitor.leave(page, "public-token-recovered");
});

flow("a user moves from the popup to Connect", async (visitor) => {
  const popup = await visitor.open("popup-client.html");
  await visit(popup, connects(HOSPITAL));
  await says(popup, "Connected by popup.");
  const page = await visitor.open("page.html");
  await visit(page, connects(WATCH));
  await says(page, WATCH);
  await has(visitor.user, { flow: /connect/, "accessToken.from": /connect/, publicToken: /sealed/, humanId: /./ });
  assert.equal((await world.accessToken(visitor.user)).status, 200);
  await visitor.leave(page, "moved-to-connect");
});

flow("the button form, with data-hapi-token", async (visitor) => {
  const page = await visitor.open("button.html");
  await says(page, "Nothing connected yet.");
  await page.locator("#connect:enabled").waitFor();
  const token = () => page.locator("#connect").getAttribute("data-hapi-token");
  const first = await token();
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  await page.locator("#connect:enabled").waitFor();
  assert.notEqual(await token(), first, "a connected user's widget needs another token");
  await visit(page, connects(WATCH));
  await says(page, WATCH);
  await has(visitor.user, { accessToken: /sealed/, sources: /Pretend Pace/ });
  await visitor.leave(page, "button-form");
});

flow("React", async (visitor) => {
  const page = await visitor.open("react.html");
  await says(page, "Nothing connected yet.");
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  await has(visitor.user, { accessToken: /sealed/ });
  await visitor.leave(page, "react");
});

flow("React does not show one user's connection to another user", async (visitor) => {
  const page = await visitor.open("react.html");
  await says(page, "Nothing connected yet.");
  await visit(page, connects(HOSPITAL));
  await says(page, `Connected: ${HOSPITAL}`);
  // the response for the first user arrives after another user has signed in
  let release;
  const delayed = new Promise((resolve) => (release = resolve));
  await visitor.context.route("**/connect/connection", async (route) => {
    if (route.request().method() === "GET" && !delayed.over) {
      delayed.over = true;
      await delayed;
    }
    return route.fallback();
  });
  await page.reload();
  await page.waitForRequest((request) => request.url().endsWith("/connect/connection")).catch(() => {});
  visitor.user = `somebody-else-${visitor.user}`;
  visitor.tokens.length = 0;
  await page.getByRole("button", { name: "Sign in as somebody else" }).click();
  await says(page, "Nothing connected yet.");
  const late = page.waitForResponse((answer) => answer.url().endsWith("/connect/connection"));
  release();
  await (await late).finished();
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))));
  assert.equal(await page.getByRole("status").textContent(), "Nothing connected yet.");
  await visitor.leave(page, "react-another-user");
});

/** An error response of the backend. */
const broken = (status, body) => ({
  status,
  headers: { "access-control-allow-origin": world.origin, "access-control-expose-headers": "Retry-After" },
  json: body,
});
const REFUSED = { code: "upstream_invalid", detail: "Made up: no answer to work with." };

const reload = (page) => page.reload();
// this page handles the widget's response only when the widget closes, so open it again
const openAgain = (page) => visit(page, (widget) => widget.done());
for (const [example, again] of Object.entries({
  "page.html": reload, "react.html": reload, "popup-client.html": reload, "button.html": openAgain,
})) {
  flow(`${example} shows an error, and works again`, async (visitor) => {
    let failing = true;
    await visitor.context.route("**/connect/finish", (route) =>
      failing && route.request().method() === "POST" ? route.fulfill(broken(502, REFUSED)) : route.fallback());
    const page = await visitor.open(example);
    await says(page, "Nothing connected yet.");
    await page.getByRole("button", { name: "Connect health data", disabled: false }).waitFor();
    await visit(page, connects(HOSPITAL));
    await says(page, /That did not work: (Made up: no answer|upstream_invalid)/);
    failing = false;
    await page.getByRole("button", { name: "Connect health data", disabled: false }).waitFor();
    await again(page);
    await says(page, /^Connected/);
    // the button form starts its next session after the finish
    await page.getByRole("button", { name: /health data|what is connected/, disabled: false }).waitFor();
    await has(visitor.user, { accessToken: /sealed/, pending: null });
    await visitor.leave(page, `failed-${example.replace(".html", "")}`);
  }, /502/);
}

flow("a page shows that it waits", async (visitor) => {
  let times = 0;
  await visitor.context.route("**/connect/connection", (route) =>
    times++ || route.request().method() !== "GET" ? route.fallback() : route.fulfill(broken(503, { message: "Service Unavailable" })));
  const page = await visitor.open("page.html");
  await says(page, "This takes longer than usual…");
  await says(page, "Nothing connected yet.");
  await visitor.leave(page, "waiting");
}, /503/);

flow("the guide's popup survives an expired sign-in, an error of the backend and a reload", async (visitor) => {
  visitor.tokens.push("made-up.expired.token");
  const page = await visitor.open("popup.html");
  await says(page, "Nothing connected yet.");
  assert.equal(visitor.tokens.length, 2);
  let times = 0;
  let hangs;
  const second = new Promise((resolve) => (hangs = resolve));
  await visitor.context.route("**/connect/finish/*", (route) => {
    times += 1;
    if (times === 1) return route.fulfill(broken(500, { message: "Internal Server Error" }));
    return times === 2 ? hangs() : route.fallback(); // the test reloads the page while the second request hangs
  });
  await visit(page, async (widget) => {
    await widget.connect(HOSPITAL);
    await widget.done();
  });
  await second;
  await page.reload();
  await says(page, "Connected.");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await has(visitor.user, { accessToken: /sealed/, publicToken: /sealed/, pending: null });
  await visitor.leave(page, "popup-jquery-again");
}, /401|500/);

flow("the guide's popup shows a refusal, and opens Connect if Human API knows the user", async (visitor) => {
  const page = await visitor.open("popup.html");
  await says(page, "Nothing connected yet.");
  await visitor.context.route("**/connect/finish/*", (route) => route.fulfill(broken(422, { detail: "Made up: refused." })));
  await visit(page, connects(HOSPITAL));
  await says(page, "That did not work: Made up: refused.");
  await page.getByRole("button", { name: "Connect health data", disabled: false }).waitFor();
  await press(page);
  const popup = await Widget.in(page);
  await popup.frame.getByText("User Already Exists").waitFor();
  await Promise.all([page.waitForURL("**/page.html"), popup.close()]);
  await visit(page, (widget) => widget.done());
  await says(page, "Connected: Mount Invented Hospital");
  await visitor.leave(page, "popup-jquery-refused");
}, /422|409/);

for (const [name, address] of [["a plain page", (world) => `${world.developed}/page.html`], ["a page of Vite", (world) => world.viteOrigin]]) {
  test(`${name} on another origin connects against the local program, without any interception`, { timeout: 60_000 }, async () => {
    const context = await world.browser.newContext();
    try {
      const page = await context.newPage();
      const complaints = [];
      listen(page, complaints);
      await world.switch("drop-user", { user: "ada" });
      await world.local("/local/backend/forget", { clientUserId: "ada" });
      await page.goto(address(world));
      await says(page, "Nothing connected yet.");
      await visit(page, connects(HOSPITAL));
      await says(page, /^Connected/);
      await has("ada", { accessToken: /sealed/, sources: /Mount Invented/, pending: null });
      assert.deepEqual(complaints, []);
      await world.shot(page, `developed-${name.replaceAll(" ", "-")}`);
    } finally {
      await context.close();
    }
  });
}

flow("CORS blocks a page of an origin that is not allowed", async (visitor) => {
  const page = await visitor.open("page.html");
  await says(page, "Nothing connected yet.");
  const ask = (token) => {
    const options = { headers: { Authorization: `Bearer ${token}` } };
    return page.evaluate(
      ([url, options]) => fetch(url, options).then((answer) => answer.status, () => "blocked"),
      [`${world.api}/connect/connection`, options],
    );
  };
  assert.equal(await ask(visitor.tokens[0]), 200);
  await page.goto(`${world.elsewhere}/mobile.md`);
  assert.equal(await ask(visitor.tokens[0]), "blocked");
  await visitor.leave(page, "other-origin");
}, /CORS policy|ERR_FAILED/);
