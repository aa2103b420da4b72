// Tests the local console in a browser: light, dark, on a phone, with faults, and by keyboard alone. axe-core must find nothing serious,
// and the browser's console must show no errors.

import assert from "node:assert/strict";
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
    const page = await context.newPage();
    const complaints = [];
    listen(page, complaints);
    await page.goto(world.api);
    await quiet(page);
    await page.getByText("Somebody else").click();
    await page.locator("#user-id").fill(`visitor-${++number}`);
    await page.locator("#user-email").fill("visitor@example.test");
    await page.locator("#user-form button").click();
    await page.locator("#user-name").getByText(`visitor-${number}`).waitFor();
    await quiet(page);
    await play(page);
    await world.shot(page, `console-${name.replaceAll(/\W+/g, "-")}`);
    await accessible(page);
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wider <= 0, `the page is ${wider} px wider than its window`);
    assert.deepEqual(complaints.filter((text) => !expected.test(text)), []);
    await context.close();
  });
}

/** Waits until the console is idle. It runs one action at a time, and runs one at its start. */
async function quiet(page) {
  await page.locator("#connection-badge").waitFor();
  await page.locator('#app:not([aria-busy="true"])').waitFor();
}

async function accessible(page) {
  // `evaluate` bypasses the page's own policy, which blocks scripts of other origins
  await page.evaluate(AXE);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const serious = found.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`), []);
}

const told = (page, text) => page.locator("#notice").getByText(text).waitFor();

async function connect(page) {
  await page.locator("#connect").click();
  const widget = await Widget.in(page);
  await widget.connect(CLINIC);
  await widget.done();
}

visit("light", {}, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
  await page.locator("#access").click();
  await page.locator("#answer").waitFor();
});

visit("dark", { colorScheme: "dark" }, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
});

visit("phone", { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
});

visit("with a fault at Human API", {}, async (page) => {
  await world.switch("fault", { service: "Human API", fault: "401", once: false });
  await page.locator('input[name="way"][value="popup"]').check({ force: true });
  await connect(page);
  await told(page, "did not succeed");
  await world.switch("no-faults");
}, /502/);

visit("a widget that does not load can be left", {}, async (page) => {
  await page.route(`${world.standIn}/**`, (route) => route.abort());
  await page.locator("#connect").click();
  await page.locator("#human-api").waitFor();
  await page.locator("#leave").focus(); // the failed frame may have the focus
  await page.keyboard.press("Enter");
  await told(page, "Closed. Nothing is connected.");
  assert.equal(await page.locator("#human-api, #human-api-connect-modal-overlay").count(), 0);
  assert.equal(await page.locator("main[inert], [inert]").count(), 0);
}, /ERR_FAILED/);

visit("spaces are not a valid id", {}, async (page) => {
  await page.locator("#user-id").fill("   ");
  await page.locator("#user-form button").click();
  assert.equal(await page.locator("#user-id:invalid").count(), 1);
  assert.match(await page.locator("#user-name").textContent(), /^visitor-/);
});

visit("the list of events shows no secret", {}, async (page) => {
  await connect(page);
  await told(page, "Your health data is connected");
  await page.getByRole("button", { name: /event handed to finish/i }).first().click();
  await page.locator(".raw .mask").first().waitFor();
  const raw = await page.locator(".raw").first().textContent();
  assert.match(raw, /"authorization": "•{12}"/);
  assert.doesNotMatch(await page.locator("#happened").textContent(), /Bearer |made-up-(access|public|session|id|client)/);
});

visit("imported users are served and forgotten by another backend, and each change is an event", {}, async (page) => {
  const of = (text) => page.locator("#events li", { hasText: text });
  await page.locator("#import").click();
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
  await page.locator("#record").getByText("The table has no row for imported-100").waitFor();
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
  assert.equal(await page.evaluate(() => document.activeElement.id), "connect", "the focus returns to the button");
  const moving = await page.evaluate(() => document.getAnimations().map(({ animationName, transitionProperty, effect }) => [animationName ?? transitionProperty, effect.getTiming().duration, effect.target.className]));
  assert.deepEqual(moving, [], "there are no animations");
});
