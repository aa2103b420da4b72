// The environment of the flows: the local stack with the real functions, an app on its own origin with a CSP as in production, and
// Chromium. The app uses the real addresses of Human API. The stand-in of the local stack answers them.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { createServer as createVite } from "vite";
import { takeNewerFeatures } from "./older.mjs";

const ROOT = new URL("../..", import.meta.url).pathname;
const SHOTS = process.env.BROWSER_SHOTS ?? join(ROOT, "target/checks/browser");
const WIDGET = "https://hapi-connect.humanapi.co";
const POPUP = "https://connect.humanapi.co";
const KINDS = { ".md": "text/plain", ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

export class World {
  servers = [];
  /** Slashes at the end of the backend's address. A copied address often has them. */
  slashes = "";

  /** Starts everything. `close` ends it. The local program gets the additional environment `variables`. */
  static async start(variables = {}) {
    const world = new World();
    world.variables = variables;
    try {
      await world.#start();
    } catch (error) {
      await world.close(); // otherwise node waits for the started processes
      throw error;
    }
    return world;
  }

  async #start() {
    mkdirSync(SHOTS, { recursive: true });
    this.directory = mkdtempSync(join(tmpdir(), "human-connect-browser-"));
    await this.#serveApp();
    await this.#serveVite();
    await this.#startLocalProgram();
    this.browser = await chromium.launch({
      executablePath: process.env.BROWSER_CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
      ],
    });
  }

  async close() {
    await this.browser?.close();
    for (const server of this.servers) server.close();
    await this.vite?.close();
    this.program?.kill("SIGINT");
    if (this.program?.exitCode === null) await once(this.program, "exit");
    if (this.directory) rmSync(this.directory, { recursive: true });
  }

  async #startLocalProgram() {
    const binary = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, "target"), "debug/local");
    if (!existsSync(binary)) throw new Error(`${binary} is not built: run checks/browser/run`);
    this.program = spawn(binary, ["--port", "0", "--origin", [this.origin, this.developed, this.viteOrigin].join()], { cwd: this.directory, env: { ...process.env, ...this.variables } });
    this.program.stderr.pipe(process.stderr);
    this.api = await new Promise((resolve, reject) => {
      let output = "";
      this.program.stdout.on("data", (text) => {
        output += text;
        const [, api] = /open (http:\S+)\s/.exec(output) ?? [];
        if (api) resolve(api);
      });
      this.program.once("exit", () => reject(new Error(`the local program did not start: ${output}`)));
    });
    this.standIn = (await this.local("/local/state")).widgetOrigin;
  }

  /** Serves the app: the unchanged examples and the files that they import. */
  async #serveApp() {
    const answer = (isDeveloped) => async (request, response) => {
      const name = new URL(request.url, "http://app").pathname.slice(1);
      try {
        const isYours = isDeveloped && name === "your-app.js";
        const [kind, body] = isYours ? [KINDS[".js"], this.#yourLocalApp()] : await this.#file(name);
        const policy = isDeveloped ? {} : { "Content-Security-Policy": this.#policy() };
        response.writeHead(200, { "Content-Type": kind, ...policy }).end(body);
      } catch {
        response.writeHead(name === "favicon.ico" ? 204 : 404).end();
      }
    };
    const serve = async (isDeveloped = false) => {
      const server = createServer(answer(isDeveloped)).listen(0, "localhost");
      this.servers.push(server);
      await once(server, "listening");
      return `http://localhost:${server.address().port}`;
    };
    this.origin = await serve();
    this.elsewhere = await serve(); // the same app, on an origin that is not allowed
    this.developed = await serve(true); // the same app with `your-app.local.js`
  }

  /** Serves a page with Vite's development server. Its `your-app` is `your-app.local.js`. */
  async #serveVite() {
    const file = join(ROOT, "web/examples/your-app.local.js");
    this.vite = await createVite({
      root: join(ROOT, "checks/browser/pages/vite"),
      configFile: false,
      logLevel: "error",
      cacheDir: join(this.directory, "vite"),
      optimizeDeps: { noDiscovery: true },
      server: { host: "localhost", port: 5199, hmr: false, fs: { allow: [ROOT] } },
      plugins: [{
        name: "your-app",
        resolveId: (id) => (id === "your-app" ? file : null),
        load: (id) => (id === file ? this.#yourLocalApp() : null),
      }],
    });
    await this.vite.listen();
    this.viteOrigin = `http://localhost:${this.vite.httpServer.address().port}`;
  }

  /** The example for the local program. Only the ports differ, because other programs may use the usual ones. */
  #yourLocalApp() {
    const text = readFileSync(join(ROOT, "web/examples/your-app.local.js"), "utf8");
    const port = (url) => new URL(url).port;
    return text.replace(/\b3000\b/, port(this.api)).replace(/\b3001\b/, port(this.standIn));
  }

  #policy() {
    return [
      "default-src 'none'", `script-src 'self' ${POPUP}`, `connect-src 'self' ${this.api}`, `frame-src ${WIDGET} ${POPUP}`,
      `img-src 'self' ${WIDGET}`, "style-src 'self'", "base-uri 'none'", "form-action 'none'",
    ].join("; ");
  }

  async #file(name) {
    // only this file differs from the examples: it has the backend's address and the signed-in user
    if (name === "your-app.js") return [KINDS[".js"], yourApp(this.api + this.slashes)];
    if (name === "react.js") return [KINDS[".js"], await bundle("pages/react.jsx")];
    const folders = {
      "human-connect.js": "checks/browser/node_modules/human-connect",
      "humanapi-connect-client.js": "checks/browser/node_modules/humanapi-connect-client/build",
      "jquery.js": "checks/browser/node_modules/jquery/dist",
    };
    const places = folders[name] ? [folders[name]] : ["web/examples", "checks/browser/pages"];
    for (const place of places) {
      try {
        return [KINDS[extname(name)], readFileSync(join(ROOT, place, name))];
      } catch {
        // the file may be in the next folder
      }
    }
    throw new Error(`no ${name}`);
  }

  /** Calls a helper route of the local stack. */
  async local(path, body) {
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(this.api + path, body && post);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response.status === 204 ? null : response.json();
  }

  /** The user's row as a flat object of fields; null if there is no row. */
  async row(user) {
    return (await this.local(`/local/record?user=${encodeURIComponent(user)}`)).record;
  }

  switch(action, more = {}) {
    return this.local("/local/stand-in", { action, ...more });
  }

  shot(page, name) {
    return page.screenshot({ path: join(SHOTS, `${name}.png`) });
  }

  /** The response to another backend that requests this user's access token. */
  accessToken(user) {
    return this.local("/local/backend/access-token", { clientUserId: user });
  }

  /** A browser in which this user is signed in to the app. */
  async visitor(user) {
    const context = await this.browser.newContext({ viewport: { width: 1000, height: 760 } });
    const visitor = new Visitor(this, context, user);
    // the stand-in allows only the console to embed it, and the app is another origin
    const stand = (origin) =>
      context.route(`${origin}/**`, async (route) => {
        const url = route.request().url().replace(origin, this.standIn);
        const answer = await route.fetch({ url, maxRetries: 3 }).catch(() => null); // an idle connection may close at this moment
        if (!answer) return route.abort();
        const headers = answer.headers();
        delete headers["content-security-policy"];
        await route.fulfill({ response: answer, headers });
      });
    await stand(WIDGET);
    await stand(POPUP);
    await visitor.signIn();
    return visitor;
  }
}

function yourApp(api) {
  return `export const api = ${JSON.stringify(api)};
export const getToken = (refresh) => window.token(refresh);
export const loadClient = () => window.HumanConnect;`;
}

async function bundle(entry) {
  const built = await build({
    entryPoints: [new URL(entry, import.meta.url).pathname],
    bundle: true,
    write: false,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"production"' },
    nodePaths: [new URL("node_modules", import.meta.url).pathname],
    external: ["./your-app.js"],
  });
  return built.outputFiles[0].contents;
}

/** Collects the errors and CSP violations that a page causes in the browser's console. */
export function listen(page, complaints) {
  page.on("console", (message) => {
    if (message.type() === "error" || /Content.Security.Policy/i.test(message.text())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
}

/** One user in one browser, with any number of tabs. */
export class Visitor {
  complaints = [];

  constructor(world, context, user) {
    Object.assign(this, { world, context, user });
  }

  /** Adds the app's identity provider to its pages: `window.token(refresh)`. */
  async signIn() {
    this.tokens = [];
    this.refreshes = [];
    await this.context.exposeFunction("token", async (refresh) => {
      this.refreshes.push(refresh);
      const email = `${this.user.length}@example.test`;
      if (refresh || !this.tokens.length) {
        this.tokens.push((await this.world.local("/local/sign-in", { user: this.user, email })).token);
      }
      return this.tokens.at(-1);
    });
  }

  /** Removes newer features from this visitor's browser. */
  async ages() {
    await this.context.addInitScript(`(${takeNewerFeatures})(globalThis)`);
  }

  /** Opens a page of the app in a new tab, and collects its console errors. */
  async open(path) {
    const page = await this.context.newPage();
    listen(page, this.complaints);
    await page.goto(`${this.world.origin}/${path}`);
    return page;
  }

  leave(page, name) {
    return this.world.shot(page, name);
  }

  /** Takes a screenshot of each tab after a failure. */
  async failed(name) {
    const pages = this.context.pages();
    await Promise.all(pages.map((page, tab) => this.world.shot(page, `FAILED ${name.replaceAll(/\W+/g, "-")} ${tab}`).catch(() => {})));
  }
}

/** The user's view of the widget, of either generation. */
export class Widget {
  constructor(page, frame) {
    this.page = page;
    this.outer = page.locator(frame);
    this.frame = page.frameLocator(frame);
  }

  static async in(page) {
    const frame = page.locator("#human-api, #human-connect").last();
    await frame.waitFor();
    const widget = new Widget(page, (await frame.getAttribute("id")) === "human-api" ? "#human-api" : "#human-connect");
    await widget.frame.getByLabel("Close").waitFor();
    return widget;
  }

  async toggle(verb, source) {
    const button = (name) => this.frame.getByRole("button", { name: `${name} ${source}`, exact: true });
    const done = () => button(verb === "Connect" ? "Disconnect" : "Connect").waitFor({ timeout: 5000 });
    await this.page.bringToFront();
    await button(verb).click();
    // Chromium may drop the first click in a tab that has just come to the front, so click twice if needed
    await done().catch(() => button(verb).click().then(done));
  }

  connect(source) {
    return this.toggle("Connect", source);
  }

  disconnect(source) {
    return this.toggle("Disconnect", source);
  }

  /** Clicks the last button: Done, or the popup's Finish. */
  done() {
    return this.leave(this.frame.locator("footer .done"));
  }

  close() {
    return this.leave(this.frame.getByLabel("Close"));
  }

  /** Clicks a button that closes the widget. Playwright may wait forever for a click whose frame has gone, so this does not await it. */
  async leave(button) {
    const element = await this.outer.elementHandle();
    const gone = element.waitForElementState("hidden").catch(() => {}); // fails if the page has gone too
    await Promise.race([button.click().catch(() => {}), gone]);
    await gone;
  }
}
