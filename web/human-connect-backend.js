// Connects the signed-in user's health data, with a human-connect backend and Human API's own client.
// The module has no dependencies. Its types are in human-connect-backend.d.ts. A browser never gets an access token.
// The oldest browsers are Chrome, Edge and Android WebView 80, Safari 13.1 (iOS 13.4) and Firefox 74. Do not use newer features here.

/** A call is retried for at most this time, in milliseconds. */
const MAX_RETRY_MS = 60000;
/** Time limit of one attempt, body included, in milliseconds. API Gateway's own limit is 30 seconds. */
const TIMEOUT_MS = 35000;

/** A failed call. A function or API Gateway refused it, or the network failed. */
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

/** After an error with one of these codes, the session cannot be finished any more. After any other error, it may still be finished. */
const FINAL_CODE = /_request$|_mismatch$|_rejected$|^reconnect_|^connection_/;

const running = {};

/**
 * Starts a session, opens Human API's client, and posts the client's result. A second call of the same user joins the first.
 *
 * @param {import("./human-connect-backend.d.ts").Options} options
 * @returns {Promise<import("./human-connect-backend.d.ts").Connection>} the user's connection
 */
export async function connect(options) {
  const key = await storageKey(options);
  if (!key) return run(options, key);
  if (!running[key]) running[key] = run(options, key).finally(() => delete running[key]);
  return running[key];
}

/**
 * Finishes a session that a reload interrupted, if there is one. Call it after the page has loaded.
 *
 * @param {import("./human-connect-backend.d.ts").Options} options
 * @returns {Promise<import("./human-connect-backend.d.ts").Connection | null>}
 */
export async function resume(options) {
  const key = await storageKey(options);
  return running[key] ?? finishStored(options, key);
}

/**
 * Makes one call as the signed-in user, and retries it after transient errors. The routes are `"GET /connect/connection"`,
 * `"DELETE /connect/connection"` and `"POST /connect/public-token"`.
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
  for (let attempt = 0, refresh = false; ; attempt++) {
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
    const transient = error.retryAfter || [0, 429, 500, 503, 504].includes(error.status);
    const wait = (error.retryAfter ?? 2 ** attempt) * 1000;
    if (!transient || Date.now() + wait - began > MAX_RETRY_MS) throw error;
    notify(options, "waiting", { seconds: wait / 1000, code: error.code });
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Gets the token of the next attempt. If the network is down, the identity provider may be unreachable; then the last token is used. */
async function signIn(options, refresh, error) {
  try {
    return await options.getToken(refresh);
  } catch (failure) {
    if (!refresh || error.status) throw failure;
    return options.getToken(false);
  }
}

/** Sends a request once. Returns the response's body, or a ConnectError. Throws if the request cannot be made. */
async function send(url, request) {
  // If the browser lacks `fetch` or `AbortController`, this throws outside the `try`, which is for failures of the connection.
  const fetchNow = fetch.bind(globalThis);
  const controller = new AbortController();
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reject();
      controller.abort();
    }, TIMEOUT_MS);
  });
  // Some web views replace `fetch` by one that ignores the signal.
  const inTime = (work) => Promise.race([work, late]);
  let response;
  let answer;
  try {
    response = await inTime(fetchNow(url, { ...request, signal: controller.signal }));
    if (response.status !== 204) answer = await inTime(response.json());
  } catch (error) {
    // `fetch` reports a malformed request like a lost connection. If the request is malformed, `Request` throws the proper error.
    if (!response) new Request(url, request);
    // Every success of the backend is JSON, so the address is wrong. A retry does not help.
    if (response?.ok && error?.name === "SyntaxError") {
      return new ConnectError(response.status, { message: "The response is not JSON. Check that `api` is the backend's address." });
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

async function finishStored(options, key) {
  const callback = stored(key);
  return callback && finish(options, callback, key);
}

async function run(options, key, refresh = false) {
  // First finish the session of an earlier visit. If that fails, only a popup's session is worth keeping; otherwise start a new one.
  const resumed = await finishStored(options, key).catch((error) => {
    if (stored(key)?.sessionToken) throw error;
  });
  if (resumed?.connected) return resumed;
  notify(options, "starting");
  const wanted = { flow: options.flow, clientUserEmail: options.email, refresh };
  const session = await call(options, "POST /connect/session", wanted);
  // the backend decides the flow: a user who must reconnect may get the other flow
  const client = (await options.client?.(session.flow)) ?? globalThis.HumanConnect;
  notify(options, "opened", { flow: session.flow, mode: session.mode });
  const popup = session.flow === "popup";
  let callback;
  try {
    callback = await new Promise((resolve, reject) => {
      const { signal } = options;
      const refuse = (error) => reject(new ConnectError(0, { code: "widget", message: error.message ?? error }));
      let failure;
      // older browsers have no `signal.reason`
      const leave = () => reject(signal.reason ?? new DOMException("The page left the widget.", "AbortError"));
      if (signal?.aborted) return leave();
      signal?.addEventListener("abort", leave);
      const opened = client?.open(
        popup
          ? {
              clientUserId: session.clientUserId, // already percent-encoded
              clientId: session.clientId,
              publicToken: session.publicToken,
              finish: (error, sessionTokenObject) => (error ? refuse(error) : resolve(sessionTokenObject)),
              close: () => (failure ? refuse(failure) : resolve(null)),
              error: (error) => (failure = error), // the popup shows the error until the user closes it
            }
          : {
              token: session.token,
              onConnectSource: (response) => notify(options, "connected", response),
              onDisconnectSource: (response) => notify(options, "disconnected", response),
              onClose: (response) => resolve(response ?? {}),
            },
      );
      if (!client || opened === null) refuse("Human API's client is missing or already open.");
      // If a reload closes the Connect widget, the next `resume` posts this empty response to get the connection.
      else if (!popup) stored(key, {});
    });
  } catch (error) {
    // Human API knows the user, but the user's session was lost. The Connect widget can still open for this user.
    if (!refresh && /already exists/i.test(error?.message)) return run({ ...options, flow: "connect" }, key, true);
    throw error;
  }
  if (!callback) {
    notify(options, "closed");
    return call(options, "GET /connect/connection");
  }
  const connection = await finish(options, callback, key);
  // the session token expired in the widget: open the widget once more, with a new token
  return /SESSION_TOKEN/.test(callback.status) && !refresh ? run(options, key, true) : connection;
}

/** Posts the widget's result. The result stays stored until the backend has given a final answer. */
async function finish(options, callback, key) {
  stored(key, callback); // before anything else, because a popup returns its session only once
  if ((await storageKey(options)) !== key) {
    throw new ConnectError(0, { code: "user_changed", message: "Another user signed in." });
  }
  notify(options, "finishing");
  try {
    const connection = await call(options, "POST /connect/finish", callback);
    stored(key, null);
    notify(options, "finished", connection);
    return connection;
  } catch (error) {
    if (FINAL_CODE.test(error?.code)) stored(key, null);
    throw error;
  }
}

/** Returns the stored value; stores `value`; deletes the stored value if `value` is null. Without storage, a reload loses the value. */
function stored(key, value) {
  try {
    if (!key) return null;
    if (value === undefined) return JSON.parse(sessionStorage[key]);
    if (value) sessionStorage[key] = JSON.stringify(value);
    else delete sessionStorage[key];
  } catch {
    return null;
  }
}

/** Each user has a separate key. The next user in this tab must not post the previous user's session, which would spend it. */
async function storageKey(options) {
  const token = await options.getToken(false);
  let user;
  try {
    user = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).sub;
  } catch {
    // the token is not a JWT, so the user is unknown and nothing is stored
  }
  return user && `human-connect ${address(options)} ${user}`;
}

/** Calls `onProgress` in a microtask, so that its exceptions do not end the call. */
const notify = (options, step, detail) => queueMicrotask(() => options.onProgress?.(step, detail));
