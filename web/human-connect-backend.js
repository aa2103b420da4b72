// Connects the signed-in user's health data: a human-connect backend and Human API's own client, joined.
// No dependencies. Types: human-connect-backend.d.ts. An access token never comes to a browser.
// The oldest browsers are Chrome, Edge and Android WebView 80, Safari 13.1 (iOS 13.4) and Firefox 74: no newer syntax or feature here.

/** Longest time that a call is tried again, in milliseconds. */
const PATIENCE = 60000;
/** Longest time for one answer, its body included, in milliseconds. API Gateway gives up on a function after 30 seconds. */
const TIMEOUT = 35000;

/** A call that did not succeed, whoever refused it: a function, API Gateway, or nobody because the network is gone. */
export class ConnectError extends Error {
  /**
   * @param {number} status
   * @param {{code?: string, detail?: string, message?: string, requestId?: string}} answer
   * @param {any} [retryAfter] seconds
   */
  constructor(status, { code, detail, message, requestId }, retryAfter) {
    super(detail ?? message ?? "No answer.");
    this.status = status; // 0: no answer
    this.code = code ?? (status ? "gateway" : "network");
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** What the backend says of a session for good; whatever else goes wrong, it may yet be finished. */
const VERDICT = /_request$|_mismatch$|_rejected$|^reconnect_|^connection_/;

const running = {};

/**
 * Starts a session, opens Human API's client, posts what it hands back. A second call of the same user joins the first.
 *
 * @param {import("./human-connect-backend.d.ts").Options} options
 * @returns {Promise<import("./human-connect-backend.d.ts").Connection>} what is connected now
 */
export async function connect(options) {
  const key = await place(options);
  if (!key) return run(options, key);
  if (!running[key]) running[key] = run(options, key).finally(() => delete running[key]);
  return running[key];
}

/**
 * Finishes what a reload has cut off, if there is something. Call it when the page has loaded.
 *
 * @param {import("./human-connect-backend.d.ts").Options} options
 * @returns {Promise<import("./human-connect-backend.d.ts").Connection | null>}
 */
export async function resume(options) {
  const key = await place(options);
  return running[key] ?? takeUp(options, key);
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
  const refreshed = {};
  let error;
  for (let tries = 0, refresh = false; ; tries++) {
    const token = await signIn(options, refresh, error);
    const answer = await send(address(options) + path, {
      method,
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    });
    if (!(answer instanceof ConnectError)) return answer;
    error = answer;
    // The token may have expired. API Gateway's 401 may lack CORS headers, and the browser then reports status 0.
    refresh = [0, 401].includes(error.status) && !refreshed[error.status];
    if (refresh) refreshed[error.status] = true;
    if (refresh && error.status) continue;
    const passing = error.retryAfter || [0, 429, 500, 503, 504].includes(error.status);
    const wait = (error.retryAfter ?? 2 ** tries) * 1000;
    if (!passing || Date.now() + wait - began > PATIENCE) throw error;
    tell(options, "waiting", { seconds: wait / 1000, code: error.code });
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Brings the next try's token. If the network is gone, the identity provider may be gone too, and the last token must do. */
async function signIn(options, refresh, error) {
  try {
    return await options.getToken(refresh);
  } catch (failure) {
    if (!refresh || error.status) throw failure;
    return options.getToken(false);
  }
}

/** Sends a request once. Returns the answer's body, or a ConnectError. Throws if the request cannot be made. */
async function send(url, request) {
  // A browser that lacks one of the two throws here: the `try` is for failures of the connection.
  const ask = fetch.bind(globalThis);
  const controller = new AbortController();
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reject();
      controller.abort();
    }, TIMEOUT);
  });
  // Some web views replace `fetch` by one that ignores the signal.
  const inTime = (work) => Promise.race([work, late]);
  let response;
  let answer;
  try {
    response = await inTime(ask(url, { ...request, signal: controller.signal }));
    if (response.status !== 204) answer = await inTime(response.json());
  } catch (error) {
    // `fetch` reports a malformed request like a lost connection. `Request` throws the malformed one's error.
    if (!response) new Request(url, request);
    // The backend sends no success without JSON, so the address is another one. Another try does not help.
    if (response?.ok && error?.name === "SyntaxError") {
      return new ConnectError(response.status, { message: "The answer is not JSON. Is `api` the backend's address?" });
    }
    if (!response || response.ok) return new ConnectError(0, {});
  } finally {
    clearTimeout(timer);
  }
  if (response.ok) return response.status === 204 ? {} : answer;
  const after = response.headers.get("Retry-After");
  return new ConnectError(response.status, answer ?? {}, after && Math.max(1, Number(after) || 1));
}

/** The backend's address. A pasted value may end in slashes or spaces. */
const address = ({ api }) => String(api).replace(/[\s/]+$/, "");

async function takeUp(options, key) {
  const callback = keep(key);
  return callback && finish(options, callback, key);
}

async function run(options, key, refresh = false) {
  // what an earlier visit left is what the user wants to see done first; only a popup's session is worth not to begin anew
  const resumed = await takeUp(options, key).catch((error) => {
    if (keep(key)?.sessionToken) throw error;
  });
  if (resumed?.connected) return resumed;
  tell(options, "starting");
  const wanted = { flow: options.flow, clientUserEmail: options.email, refresh };
  const session = await call(options, "POST /connect/session", wanted);
  // the backend decides: a user who must reconnect gets the other flow
  const client = (await options.client?.(session.flow)) ?? globalThis.HumanConnect;
  tell(options, "opened", { flow: session.flow, mode: session.mode });
  const popup = session.flow === "popup";
  let callback;
  try {
    callback = await new Promise((resolve, reject) => {
      const { signal } = options;
      const refuse = (error) => reject(new ConnectError(0, { code: "widget", message: error.message ?? error }));
      let failure;
      // Older browsers give no reason.
      const leave = () => reject(signal.reason ?? new DOMException("The page left the widget.", "AbortError"));
      if (signal?.aborted) return leave();
      signal?.addEventListener("abort", leave);
      const opened = client?.open(
        popup
          ? {
              clientUserId: session.clientUserId, // percent-encoded already
              clientId: session.clientId,
              publicToken: session.publicToken,
              finish: (error, sessionTokenObject) => (error ? refuse(error) : resolve(sessionTokenObject)),
              close: () => (failure ? refuse(failure) : resolve(null)),
              error: (error) => (failure = error), // the popup shows it; the user closes it
            }
          : {
              token: session.token,
              onConnectSource: (response) => tell(options, "connected", response),
              onDisconnectSource: (response) => tell(options, "disconnected", response),
              onClose: (response) => resolve(response ?? {}),
            },
      );
      if (!client || opened === null) refuse("Human API's client is missing or open.");
      // what is connected in a widget that a reload takes away is asked for afterwards, with a response that says nothing
      else if (!popup) keep(key, {});
    });
  } catch (error) {
    // Human API knows the user, whose session was lost before it came here: the other generation lets them in
    if (!refresh && /already exists/i.test(error?.message)) return run({ ...options, flow: "connect" }, key, true);
    throw error;
  }
  if (!callback) {
    tell(options, "closed");
    return call(options, "GET /connect/connection");
  }
  const connection = await finish(options, callback, key);
  // what opened the widget had expired: once more, with a new one
  return /SESSION_TOKEN/.test(callback.status) && !refresh ? run(options, key, true) : connection;
}

/** What the widget hands over is kept until the backend has said what became of it. */
async function finish(options, callback, key) {
  keep(key, callback); // at once: a popup's can be had only once
  if ((await place(options)) !== key) {
    throw new ConnectError(0, { code: "user_changed", message: "Another user signed in." });
  }
  tell(options, "finishing");
  try {
    const connection = await call(options, "POST /connect/finish", callback);
    keep(key, null);
    tell(options, "finished", connection);
    return connection;
  } catch (error) {
    if (VERDICT.test(error?.code)) keep(key, null);
    throw error;
  }
}

/** Reads what is kept; keeps `value`; forgets it, where that is null. Where nothing can be kept, a reload loses it. */
function keep(key, value) {
  try {
    if (!key) return null;
    if (value === undefined) return JSON.parse(sessionStorage[key]);
    if (value) sessionStorage[key] = JSON.stringify(value);
    else delete sessionStorage[key];
  } catch {
    return null;
  }
}

/** One place for each user, if known: who signs in next in this tab must not post, and so spend, another's session. */
async function place(options) {
  const token = await options.getToken(false);
  let user;
  try {
    user = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).sub;
  } catch {
    // no JWT, so no way to tell: nothing is kept
  }
  return user && `human-connect ${address(options)} ${user}`;
}

/** Whatever goes wrong in the page's own code must not end what is under way. */
const tell = (options, step, detail) => queueMicrotask(() => options.onProgress?.(step, detail));
