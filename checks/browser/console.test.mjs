// Tests the local console in a browser: light, dark, at each width, with faults, and by keyboard alone. axe-core must find nothing, and
// the browser's console must show no errors.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { Widget, World, listen } from "./world.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const CLINIC = "Nowhere Labs";

let world;
before(async () => (world = await World.start()));
after(() => world?.close());

let number = 0;
/** A test in which a new user visits the console. */
function visit(name, options, play, expected = /^$/) {
  test(name, { timeout: 60_000 }, async () => {
    const context = await world.browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    const page = await context.newPage();
    if (options.stops) await page.clock.install();
    const complaints = [];
    listen(page, complaints);
    await page.goto(world.api);
    await quiet(page);
    await page.getByText("Another user", { exact: true }).click();
    page.user = `visitor-${++number}`;
    await page.locator("#user-id").fill(page.user);
    await page.locator("#user-email").fill("visitor@example.test");
    await page.locator("#user-form button").click();
    await page.locator("#user-name").getByText(page.user).waitFor();
    await quiet(page);
    try {
      await play(page);
    } finally {
      await page.evaluate(() => scrollTo(0, 0));
      await world.shot(page, `console-${name.replaceAll(/\W+/g, "-")}`);
      await world.switch("no-faults");
    }
    await accessible(page);
    // on a phone, `innerWidth` grows with a page that is too wide
    const wider = (await page.evaluate(() => document.documentElement.scrollWidth)) - page.viewportSize().width;
    assert.ok(wider <= 0, `the page is ${wider} px wider than its window`);
    assert.deepEqual(complaints.filter((text) => !expected.test(text)), []);
    await context.close();
  });
}

/** Waits until the console is idle. It runs one action at a time, and runs one at its start. */
async function quiet(page) {
  await page.locator("#connection-badge").waitFor();
  await page.locator('#app[aria-busy="false"]').waitFor();
}

async function accessible(page) {
  // `evaluate` bypasses the page's own policy, which blocks scripts of other origins
  await page.evaluate(AXE);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  assert.deepEqual(found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`), []);
}

const told = (page, text) => page.locator("#notice").getByText(text).first().waitFor();
const choose = (page, way) => page.locator(`input[name="way"][value="${way}"]`).check({ force: true });
const press = (page, id) => page.locator(`#${id}`).click();
/** Opens what a narrow window or a closed part hides, then presses the button. */
const simulate = async (page, name) => {
  const done = page.waitForResponse(/stand-in|invocations/);
  await page.locator("#switches").getByRole("button", { name, exact: true }).click();
  await done;
};

async function connect(page, act = (widget) => widget.connect(CLINIC)) {
  await press(page, "connect");
  const widget = await Widget.in(page);
  await act(widget);
  await widget.done();
}

/** Connects by the popup, whose public token can be lost. */
async function connectByPopup(page) {
  await choose(page, "popup");
  await connect(page);
  await told(page, "Your health data is connected");
  await quiet(page);
}

const group = (page, title) => page.locator(".group").filter({ has: page.locator(".title", { hasText: title }) }).first();

visit("light", {}, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
  await quiet(page);
  await press(page, "access");
  await page.locator("#answer-title").getByText("answered 200").waitFor();
  assert.match(await page.locator("#answer-body").textContent(), /"accessToken": "made-up-access-token-/);
});

visit("dark", { colorScheme: "dark" }, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
});

visit("phone", { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
});

for (const width of [820, 1024, 1440]) {
  visit(`no part covers another at ${width} px`, { viewport: { width, height: 1000 } }, async (page) => {
    await connect(page);
    await told(page, "Your health data is connected");
    await quiet(page);
    await press(page, "access");
    await page.locator("#answer-title").getByText("answered 200").waitFor();
    const boxes = await page.locator(".group details[open] .heads span").evaluateAll((heads) => heads.map((head) => head.getBoundingClientRect().toJSON()));
    assert.ok(boxes.length >= 6);
    for (const [place, box] of boxes.entries()) {
      const next = boxes[place + 1];
      if (next && next.top === box.top) assert.ok(box.right <= next.left, `lane ${place} covers the next one`);
    }
    const covers = await page.evaluate(() => {
      const notice = document.querySelector("#notice .body")?.getBoundingClientRect();
      const clear = document.getElementById("calls-clear").getBoundingClientRect();
      return notice && notice.top < clear.bottom && notice.bottom > clear.top && notice.left < clear.right && notice.right > clear.left;
    });
    assert.ok(!covers, "the notice covers Clear");
  });
}

visit("with a fault at Human API", {}, async (page) => {
  await simulate(page, "Human API refuses the client secret");
  await choose(page, "popup");
  await connect(page);
  await told(page, "“Connect health data” has failed.");
  await world.shot(page, "console-error");
  const [help] = await Promise.all([page.waitForEvent("popup"), page.locator("#notice .help").click()]);
  await help.locator("tr:target").getByText("upstream_unauthorized").waitFor();
  await accessible(help);
  await help.close();
  await simulate(page, "End all faults");
  await page.locator("#fault-state").getByText("All services work.").waitFor();
  await page.locator("#notice .close").click();
}, /502/);

visit("a widget that does not load can be closed", { stops: true }, async (page) => {
  await page.route(`${world.standIn}/**`, (route) => route.abort());
  await press(page, "connect");
  await page.locator("#human-api").waitFor();
  await page.clock.fastForward(8000);
  await page.locator("body > button", { hasText: "Close" }).focus(); // the failed frame may have the focus
  await page.keyboard.press("Enter");
  await told(page, "The widget was closed. Nothing has changed.");
  assert.equal(await page.locator("#human-api, #human-api-connect-modal-overlay").count(), 0);
  assert.equal(await page.locator("[inert]").count(), 0);
  // Human API's client must not keep a listener that takes the next widget's messages
  await quiet(page);
  await page.unroute(`${world.standIn}/**`);
  await connect(page);
  await told(page, "Your health data is connected");
}, /ERR_FAILED/);

visit("if the local program does not answer, the console says so, and works again", {}, async (page) => {
  await page.route("**/local/**", (route) => route.abort());
  await press(page, "connect");
  await told(page, "The local program does not answer. Is it still running?");
  await page.locator("#calls-state").getByText("The local program does not answer.").waitFor();
  await page.unroute("**/local/**");
  await connect(page);
  await told(page, "Your health data is connected");
}, /ERR_FAILED/);

visit("spaces are not a valid id", {}, async (page) => {
  await page.locator("#user-id").fill("   ");
  await page.locator("#user-form button").click();
  assert.equal(await page.locator("#user-id:invalid").count(), 1);
  assert.match(await page.locator("#user-name").textContent(), /^visitor-/);
});

visit("a popup that is closed without a change changes nothing", {}, async (page) => {
  await connectByPopup(page);
  await press(page, "connect");
  await (await Widget.in(page)).close();
  await told(page, "The widget was closed. Nothing has changed.");
});

visit("while a call waits, other buttons are disabled, Forget waits its turn, and Cancel ends the wait", {}, async (page) => {
  await connectByPopup(page);
  await simulate(page, "Human API is down");
  await connect(page, (widget) => widget.connect("Starfleet Pharmacy"));
  await page.locator("#progress").getByText("tries again").waitFor();
  for (const id of ["connect", "recover", "access", "backend-forget"]) assert.ok(await page.locator(`#${id}`).isDisabled(), id);
  await press(page, "forget");
  await page.locator("#forget-dialog .solid").click();
  await told(page, "follows.");
  await press(page, "cancel");
  await told(page, `The backend has forgotten ${page.user}.`);
  await page.locator("#record").getByText(`The table has no row of ${page.user}.`).waitFor();
  await simulate(page, "End all faults");
  await page.locator("#tour .done", { hasText: "Let Human API fail" }).waitFor();
}, /503|409/);

visit("a switch tells if it has changed something", {}, async (page) => {
  for (const [name, nothing] of [["Lose", "Nothing to lose"], ["Expire", "Nothing to expire"], ["Delete", "Nothing to delete"]]) {
    await simulate(page, name);
    await told(page, nothing);
  }
  await connectByPopup(page);
  await simulate(page, "Lose");
  await told(page, `Our record has lost the public token of ${page.user}.`);
  const lost = page.locator("#record div", { has: page.getByText("publicToken", { exact: true }) });
  await lost.locator("del").waitFor();
  assert.deepEqual(await page.locator("#record h4").first().textContent(), "Tokens");
  for (const title of ["Nothing to lose", "Our record has lost the public token"]) await group(page, title).waitFor();
  await connect(page, async () => {});
  await told(page, "The backend has recovered it from Human API");
  await page.locator("#tour .done", { hasText: "recover it" }).waitFor();
  assert.equal(await lost.locator("del").count(), 0);
});

visit("the backend learns that Human API has deleted the user", {}, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
  await simulate(page, "Delete");
  await told(page, "Let the stored tokens expire");
  await simulate(page, "Expire");
  await press(page, "access");
  await page.locator("#answer-title").getByText("answered 410").waitFor();
  await page.locator("#connection-badge").getByText("Not connected").waitFor();
});

visit("the history hides the console's own calls, keeps its titles, and can be filtered", {}, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
  await quiet(page);
  const own = page.locator('.group[data-kind="console"]').first();
  assert.ok(await own.isHidden());
  await page.locator("#calls-own").check();
  await own.waitFor();
  await page.locator("#calls-own").uncheck();
  const address = await group(page, "Connect health data").locator(".anchor").getAttribute("href");
  await page.goto(`${world.api}/${address}`);
  await page.reload();
  await group(page, "Connect health data").waitFor();
  await page.locator(`${address} details[open]`).waitFor();
  await page.locator("#calls-filter").selectOption("4");
  await page.locator(address).waitFor({ state: "hidden" });
  await page.locator("#calls-filter").selectOption("2");
  await page.locator(address).waitFor();
  await press(page, "calls-clear");
  await page.getByText("No call yet.").waitFor();
});

visit("a request can be copied as a command, and sent again", {}, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
  await quiet(page);
  const request = group(page, "Connect health data").locator(".step", { hasText: "POST /connect/session" }).first();
  await request.getByRole("button", { name: /Copy as curl/ }).click();
  await request.getByText("Copied").waitFor();
  const command = await page.evaluate(() => navigator.clipboard.readText());
  const answer = JSON.parse(execFileSync("bash", ["-c", `${command} --silent`], { encoding: "utf8" }));
  assert.deepEqual([answer.flow, answer.mode], ["connect", "edit"]);
  await request.getByRole("button", { name: /Send again/ }).click();
  await told(page, "POST /connect/session answered 200.");
  await page.getByRole("button", { name: /event of the call of finish/i }).first().click();
  await page.locator(".raw pre").first().getByText("Bearer ").waitFor();
});

visit("the Code tab has the example of the chosen widget", {}, async (page) => {
  await page.getByRole("tab", { name: "Code" }).click();
  for (const [way, file] of [["connect", "page.js"], ["popup", "popup-client.js"]]) {
    await choose(page, way);
    await page.locator("#code-title").getByText(file).waitFor();
    const text = readFileSync(new URL(`../../web/examples/${file}`, import.meta.url), "utf8");
    await page.waitForFunction((text) => document.getElementById("code").textContent === text, text);
    await press(page, "code-copy");
    await page.getByText("Copied").waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), text);
  }
  await choose(page, "phone");
  await page.locator("#code").getByText("POST /connect/session HTTP/1.1").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("tab", { name: "Code" }).focus();
  await page.keyboard.press("ArrowLeft");
  await page.locator("#connect").waitFor();
});

visit("a reload in the middle of a connect loses nothing", {}, async (page) => {
  await press(page, "connect");
  await (await Widget.in(page)).connect(CLINIC);
  await page.reload();
  await told(page, "It is finished now.");
  await page.locator("#connection-badge").getByText("Connected", { exact: true }).waitFor();
  await page.locator("#tour .done", { hasText: "Reload" }).waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#notice .body").waitFor({ state: "detached" });
});

visit("imported users are served and forgotten by another backend, and each change is an event", {}, async (page) => {
  const of = (text) => page.locator("#events li", { hasText: text });
  await press(page, "import");
  await told(page, /: 100\. Their ids are imported-001 to imported-100/);
  await of("imported-100").filter({ hasText: "Connection Connected" }).first().waitFor();
  await of("imported-100").getByRole("button").first().click();
  await page.locator("#user-name").getByText("imported-100").waitFor();
  await quiet(page);
  await page.locator("#record").getByText("made-up-human-id-100").waitFor();
  const answer = async (button, status) => {
    await page.locator(button).click();
    await page.locator("#answer-title").getByText(`answered ${status}`).waitFor();
    await quiet(page);
  };
  await answer("#access", 200);
  await answer("#backend-connection", 200);
  assert.match(await page.locator("#answer-body").textContent(), /"connected": true/);
  await answer("#backend-forget", 204);
  await of("imported-100").filter({ hasText: "Connection Forgotten" }).first().waitFor();
  await page.locator("#record").getByText("The table has no row of imported-100").waitFor();
});

visit("by keyboard alone", { reducedMotion: "reduce" }, async (page) => {
  await page.locator("#connect").focus();
  await page.keyboard.press("Enter");
  const widget = await Widget.in(page);
  // presses Tab until the focus is on the button
  const reach = async (name) => {
    const button = widget.frame.getByRole("button", { name, exact: true });
    for (let tabs = 0; tabs < 60; tabs++) {
      if (await button.evaluate((node) => node === document.activeElement)) return page.keyboard.press("Enter");
      await page.keyboard.press("Tab");
    }
    throw new Error(`Tab does not reach ${name}`);
  };
  await reach(`Connect ${CLINIC}`);
  await widget.frame.getByRole("button", { name: `Disconnect ${CLINIC}` }).waitFor();
  await reach("Done");
  await told(page, "Your health data is connected");
  await quiet(page);
  assert.equal(await page.evaluate(() => document.activeElement.id), "connect", "the focus returns to the button");
  const moving = await page.evaluate(() => document.getAnimations().map(({ animationName, transitionProperty, effect }) => [animationName ?? transitionProperty, effect.getTiming().duration, effect.target.className]));
  assert.deepEqual(moving, [], "there are no animations");
  // the skip links are the first stops, and lead to the parts of the page
  for (const [tabs, part] of [[1, "app"], [2, "happened"], [3, "switches"]]) {
    await page.evaluate(() => (document.activeElement.blur(), getSelection().removeAllRanges(), scrollTo(0, 0), document.body.setAttribute("tabindex", "-1"), document.body.focus(), document.body.removeAttribute("tabindex")));
    for (let tab = 0; tab < tabs; tab++) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    assert.ok(await page.evaluate((part) => document.getElementById(part).contains(document.activeElement), part), part);
  }
});
