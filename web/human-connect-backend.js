// Connects the signed-in user's health data: a human-connect backend and Human API's own client, joined.
// No dependencies. Types: human-connect-backend.d.ts. An access token never comes to a browser.

/** Longest time that a call is tried again, in milliseconds. */
const PATIENCE = 60_000;
/** API Gateway gives up on a function after 30 seconds. */
const TIMEOUT = 35_000;

/** A call that did not succeed, whoever refused it: a function, API Gateway, or nobody because the network is gone. */
export class ConnectError extends Error {
  name = "ConnectError";

  constructor(status, { code, detail, message, requestId }, retryAfter) {
    super(detail ?? message ?? "The backend could not be reached.");
    this.status = status; // 0: no answer
    this.code = code ?? (status ? "gateway" : "network");
    this.requestId = requestId;
    this.retryAfter = retryAfter; // seconds, where the answer says so
  }
}

/** What the backend says of a session for good; whatever else goes wrong, it may yet be finished. */
const VERDICT = /^(invalid_request|\w+_mismatch|session_rejected|reconnect_required|connection_)/;
const isVerdict = (error) => VERDICT.test(error?.code);

const running = new Map();

/**
 * Starts a session, opens Human API's client, posts what it hands back. A second call of the same user joins the first.
 *
 * @param {import("./human-connect-backend.d.ts").Options} options
 * @returns {Promise<import("./human-connect-backend.d.ts").Connection>} what is connected now
 */
export async function connect(options) {
  const key = await place(options);
  if (!running.has(key)) running.set(key, run(options, key).finally(() => running.delete(key)));
  return running.get(key);
}

/**
 * Posts a popup's session that a reload has cut off, if there is one. Call it when the page has loaded.
 *
 * @param {import("./human-connect-backend.d.ts").Options} options
 * @returns {Promise<import("./human-connect-backend.d.ts").Connection | null>}
 */
export async function resume(options) {
  const key = await place(options);
  const callback = keep(key);
  return callback && finish(options, callback, key);
}

/**
 * One call as the signed-in user, tried again while that may help: `call(options, "GET /connect/connection")`,
 * `"DELETE /connect/connection"`, `"POST /connect/public-token"`.
 *
 * @param {import("./human-connect-backend.d.ts").Options} options
 * @param {string} route
 * @param {object} [body]
 * @returns {Promise<any>}
 */
export async function call(options, route, body) {
  const [method, path] = route.split(" ");
  const began = Date.now();
  for (let tries = 0, refresh = false, refreshed = false; ; tries++) {
    const error = await once(method, options.api + path, await options.getToken(refresh), body);
    if (!(error instanceof ConnectError)) return error;
    refresh = error.status === 401 && !refreshed; // the token has expired, perhaps
    refreshed ||= refresh;
    if (refresh) continue;
    const passing = error.retryAfter || error.code === "finish_in_progress" || [0, 429, 500, 503, 504].includes(error.status);
    const wait = (error.retryAfter ?? 2 ** tries) * 1000;
    if (!passing || Date.now() + wait - began > PATIENCE) throw error;
    tell(options, "waiting", { seconds: wait / 1000, code: error.code });
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

async function once(method, url, token, body) {
  try {
    const response = await fetch(url, {
      method,
      headers: { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT),
    });
    // what is no JSON is nothing that the backend said: another address, or half an answer
    if (response.ok) return response.status === 204 ? {} : await response.json();
    const answer = await response.json().catch(() => ({}));
    const after = response.headers.get("Retry-After");
    return new ConnectError(response.status, answer, after === null ? undefined : Math.max(1, Number(after) || 1));
  } catch {
    return new ConnectError(0, {});
  }
}

async function run(options, key, refresh = false) {
  // what an earlier visit left is what the user wants to see done first; a verdict on it is no reason not to begin anew
  const resumed = await resume(options).catch((error) => {
    if (!isVerdict(error)) throw error;
  });
  if (resumed) return resumed;
  tell(options, "starting");
  const { flow, email: clientUserEmail } = options;
  const session = await call(options, "POST /connect/session", { flow, clientUserEmail, refresh });
  // the backend decides: a user who must reconnect gets the other flow
  const client = (await options.client?.(session.flow)) ?? globalThis.HumanConnect;
  tell(options, "opened", { flow: session.flow, mode: session.mode });
  const callback = await (session.flow === "popup" ? openPopup : openConnect)(client, session, options, key);
  if (!callback) {
    tell(options, "closed");
    return call(options, "GET /connect/connection");
  }
  const connection = await finish(options, callback, key);
  // what opened the widget had expired: once more, with a new one
  return /SESSION_TOKEN/.test(callback.status) && !refresh ? run(options, key, true) : connection;
}

function openConnect(client, { token }, options) {
  return new Promise((resolve) =>
    client.open({
      token,
      onConnectSource: (response) => tell(options, "connected", response),
      onDisconnectSource: (response) => tell(options, "disconnected", response),
      onClose: (response) => resolve(response ?? {}),
    }),
  );
}

function openPopup(client, { clientUserId, clientId, publicToken }, options, key) {
  return new Promise((resolve, reject) => {
    let failure;
    client.open({
      clientUserId, // percent-encoded already
      clientId,
      publicToken,
      finish: (error, sessionTokenObject) => {
        if (error) return reject(refused(error));
        keep(key, sessionTokenObject); // at once: it can be had only once
        resolve(sessionTokenObject);
      },
      close: () => (failure ? reject(refused(failure)) : resolve()),
      error: (error) => (failure = error), // the popup shows it; the user closes it
    });
  });
}

const refused = (error) => new ConnectError(0, { code: "widget", message: error.message ?? String(error) });

/** What a popup hands over is kept until the backend has said what became of it. */
async function finish(options, callback, key) {
  if ((await place(options)) !== key) {
    throw new ConnectError(0, { code: "user_changed", message: "Another user has signed in." });
  }
  tell(options, "finishing");
  try {
    const connection = await call(options, "POST /connect/finish", callback);
    keep(key, null);
    tell(options, "finished", connection);
    return connection;
  } catch (error) {
    if (isVerdict(error)) keep(key, null);
    throw error;
  }
}

/** Reads what is kept; keeps `value`; forgets it, where that is null. Where the browser keeps nothing, a reload loses it. */
function keep(key, value) {
  try {
    if (value === undefined) return JSON.parse(sessionStorage.getItem(key));
    if (value) sessionStorage.setItem(key, JSON.stringify(value));
    else sessionStorage.removeItem(key);
  } catch {
    return null;
  }
}

/** One place for each user: who signs in next in this tab must not post, and so spend, another's session. */
async function place(options) {
  const token = await options.getToken(false);
  let user;
  try {
    user = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).sub;
  } catch {
    // no JWT, so no way to tell
  }
  return `human-connect ${options.api} ${user}`;
}

const tell = (options, step, detail) => options.onProgress?.(step, detail);
