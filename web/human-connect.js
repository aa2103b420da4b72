// Connects the signed-in user's health data, with a human-connect backend and Human API's own client.
// The module has no dependencies. Its types are in human-connect.d.ts. A browser never gets an access token.
// The oldest browsers are Chrome, Edge and Android WebView 80, Safari 13.1 (iOS 13.4) and Firefox 74. Do not use newer features here.

/** A call is retried for at most this time, in milliseconds. */
const MAX_RETRY_MS = 60000;
/** Longest wait before the next attempt, in milliseconds, unless the response asks for more. */
const MAX_WAIT_MS = 16000;
/** Time limit of one attempt, body included, in milliseconds. API Gateway's own limit is 30 seconds. */
const TIMEOUT_MS = 35000;
/** A widget that has sent no message after this time, in milliseconds, gets a button that closes it. */
const CLOSABLE_AFTER_MS = 8000;

/** After an error with one of these codes, the session cannot be finished any more. After any other error, it may still be finished. */
const FINAL_CODE = /_request$|_mismatch$|_rejected$|^reconnect_|^connection_/;
/** Options of Human API's client that only this module sets. */
const OUR_OPTIONS = ["token", "clientId", "clientUserId", "publicToken"];

/** A failed call. A function or API Gateway refused it, the network failed, or the widget reported an error. */
export class HumanConnectError extends Error {
  constructor(code, message, details) {
    super(message);
    Object.assign(this, { name: "HumanConnectError", code, status: 0 }, details);
  }
}

/** The connects in progress, by user: `{work, callers, abort}`. */
const running = {};

/** @type {import("./human-connect.d.ts").createHumanConnect} */
export function createHumanConnect(settings) {
  return {
    async connect(options = {}) {
      const key = await storageKey(settings, options.signal);
      return join(key, options.signal, (signal) => run(settings, { ...options, signal }, key));
    },
    async resume({ signal } = {}) {
      const key = await storageKey(settings, signal);
      return abortable(running[key]?.work ?? finishStored(settings, key, signal), signal);
    },
    getConnection: (options = {}) => call(settings, "GET /connect/connection", options.signal),
    getPublicToken: (options = {}) => call(settings, "POST /connect/public-token", options.signal, { refresh: options.refresh }),
    forget: (options = {}) => call(settings, "DELETE /connect/connection", options.signal),
    getSession: (options = {}) => getSession(settings, options),
    async finish(result, { signal } = {}) {
      return finish(settings, result, await storageKey(settings, signal), signal);
    },
  };
}

/** Joins the user's connect that is in progress, or starts one. It ends when all its callers have aborted. */
function join(key, signal, start) {
  if (signal?.aborted) throw reason(signal);
  let shared = running[key];
  if (!shared) {
    const controller = new AbortController();
    const over = () => running[key] === shared && delete running[key];
    const abort = () => {
      over(); // at once, because the next connect must not join this one
      controller.abort();
    };
    shared = { abort, callers: 0, work: start(controller.signal).finally(over) };
    if (key) running[key] = shared;
  }
  shared.callers += 1;
  signal?.addEventListener("abort", () => --shared.callers || shared.abort());
  return abortable(shared.work, signal);
}

/** Waits for `work`, or rejects when the signal aborts. */
function abortable(work, signal) {
  return new Promise((resolve, reject) => {
    const leave = () => reject(reason(signal));
    if (signal?.aborted) leave();
    signal?.addEventListener("abort", leave);
    const over = () => signal?.removeEventListener("abort", leave);
    Promise.resolve(work).finally(over).then(resolve, reject);
  });
}

/** Older browsers have no `signal.reason`. */
const reason = (signal) => signal.reason ?? new DOMException("Aborted.", "AbortError");

/** Makes one call as the signed-in user, and retries it after transient errors. */
async function call(settings, route, signal, body) {
  const [method, path] = route.split(" ");
  const began = Date.now();
  const refreshed = {};
  /** @type {any} */
  let error;
  for (let attempt = 0, refresh = false; ; attempt++) {
    const token = await abortable(signIn(settings, refresh, error), signal);
    const answer = await send(address(settings) + path, signal, {
      method,
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (!(answer instanceof HumanConnectError)) return answer;
    error = answer;
    // The token may have expired. API Gateway's 401 may lack CORS headers, and the browser then reports status 0.
    refresh = [0, 401].includes(error.status) && !refreshed[error.status];
    if (refresh) refreshed[error.status] = true;
    if (refresh && error.status) continue;
    const transient = error.retryAfter || [0, 429, 500, 503, 504].includes(error.status);
    // Half of the wait is random, so that the pages of many users do not call at the same moment.
    const growing = Math.min(1000 * 2 ** attempt, MAX_WAIT_MS) * (0.5 + Math.random() / 2);
    const wait = Math.max(growing, (error.retryAfter ?? 0) * 1000);
    if (!transient || Date.now() + wait - began > MAX_RETRY_MS) throw error;
    notify(settings, { type: "waiting", seconds: wait / 1000, code: error.code });
    await sleep(wait, signal);
  }
}

/** Gets the token of the next attempt. If the network is down, the identity provider may be unreachable; then the last token is used. */
async function signIn(settings, refresh, error) {
  try {
    return await settings.getToken(refresh);
  } catch (failure) {
    if (!refresh || error.status) throw failure;
    return settings.getToken(false);
  }
}

/** Sends a request once. Returns the response's body, or a HumanConnectError. Throws if the request cannot be made or is aborted. */
async function send(url, signal, request) {
  // If the browser lacks `fetch` or `AbortController`, this throws outside the `try`, which is for failures of the connection.
  const fetchNow = fetch.bind(globalThis);
  const controller = new AbortController();
  const stop = () => controller.abort();
  const timer = setTimeout(stop, TIMEOUT_MS);
  signal?.addEventListener("abort", stop);
  // Some web views replace `fetch` by one that ignores the signal.
  const inTime = (work) => abortable(work, controller.signal);
  let response;
  let answer;
  try {
    response = await inTime(fetchNow(url, { ...request, signal: controller.signal }));
    if (response.status !== 204) answer = await inTime(response.json());
  } catch (cause) {
    if (signal?.aborted) throw reason(signal);
    // `fetch` reports a malformed request like a lost connection. If the request is malformed, `Request` throws the proper error.
    if (!response) new Request(url, request);
    if (response && cause?.name === "SyntaxError") answer = cause;
    else if (!response || response.ok) {
      return new HumanConnectError("network", "No answer: no network, or AllowedOrigins lacks this page's origin.", { cause });
    }
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
  return response.ok && !(answer instanceof Error) ? (answer ?? {}) : failure(response, answer ?? {});
}

/** Reads an error response. `answer` is its body, or the error of a body that is not JSON. */
function failure({ status, headers }, answer) {
  const cause = answer instanceof Error ? answer : undefined;
  const { code, detail, message, requestId } = cause ? {} : answer;
  const after = headers.get("Retry-After");
  const more = { status, cause, requestId, retryAfter: after && Math.max(1, Number(after) || 1) };
  // The backend and API Gateway answer JSON. In front of them, a proxy may answer a transient error with a page.
  if (cause && status < 500 && status !== 429) {
    return new HumanConnectError("not_json", "The answer is not JSON. Is `api` the backend's address?", more);
  }
  return new HumanConnectError(code ?? "gateway", detail ?? message ?? `The backend answered ${status}.`, more);
}

function sleep(ms, signal) {
  let timer;
  const over = new Promise((resolve) => (timer = setTimeout(resolve, ms)));
  return abortable(over, signal).finally(() => clearTimeout(timer));
}

/** The backend's address. A pasted value may end in slashes or spaces. */
const address = ({ api }) => String(api).replace(/[\s/]+$/, "");

/**
 * @param {import("./human-connect.d.ts").Settings} settings
 * @param {import("./human-connect.d.ts").SessionOptions & {refresh?: boolean}} options
 */
const getSession = (settings, { flow, email, refresh, signal }) =>
  call(settings, "POST /connect/session", signal, { flow, clientUserEmail: email, refresh });

async function finishStored(settings, key, signal) {
  const result = stored(key);
  return result && finish(settings, result, key, signal);
}

async function run(settings, options, key) {
  // First finish the session of an earlier visit. If that fails, only a popup's session is worth keeping; otherwise start a new one.
  const resumed = await finishStored(settings, key, options.signal).catch((error) => {
    if (options.signal.aborted || stored(key)?.sessionToken) throw error;
  });
  if (resumed?.connected) return resumed;
  notify(settings, { type: "starting" });
  const session = await getSession(settings, options);
  let result;
  try {
    result = await openWidget(settings, session, options, key);
  } catch (error) {
    // Human API knows the user, but the user's session was lost. The Connect widget can still open for this user.
    const isKnown = !options.refresh && /already exists/i.test(error?.message);
    if (isKnown) return run(settings, { ...options, flow: "connect", refresh: true }, key);
    throw error;
  }
  if (!result) {
    notify(settings, { type: "closed" });
    return call(settings, "GET /connect/connection", options.signal);
  }
  const connection = await finish(settings, result, key, options.signal);
  // the session token expired in the widget: open the widget once more, with a new token
  const hasExpired = /SESSION_TOKEN/.test(result.status) && !options.refresh;
  return hasExpired ? run(settings, { ...options, refresh: true }, key) : connection;
}

/** Opens the widget. Returns its result, or null if a popup was closed without one. */
async function openWidget(settings, session, { widget, signal }, key) {
  // The backend decides the flow: a user who must reconnect may get the other flow.
  const { flow, mode } = session;
  const isPopup = flow === "popup";
  const client = await abortable(settings.loadClient ? settings.loadClient(flow) : globalThis.HumanConnect, signal);
  notify(settings, { type: "opened", flow, mode });
  /** @type {any} */
  let leave;
  try {
    return await abortable(
      new Promise((resolve, reject) => {
        const refuse = (error) => reject(new HumanConnectError("widget", String(error.message ?? error), { cause: error }));
        let error;
        const close = () => (error ? refuse(error) : resolve(isPopup ? null : {}));
        const ours = isPopup
          ? {
              clientUserId: session.clientUserId, // already percent-encoded
              clientId: session.clientId,
              publicToken: session.publicToken,
              finish: (failure, sessionTokenObject) => (failure ? refuse(failure) : resolve(sessionTokenObject)),
              close,
              error: (failure) => (error = failure), // the popup shows the error until the user closes it
            }
          : {
              token: session.token,
              onConnectSource: (report) => notify(settings, { type: "source-connected", report }),
              onDisconnectSource: (report) => notify(settings, { type: "source-disconnected", report }),
              onClose: (report) => resolve(report ?? {}),
            };
        leave = guard(settings.closeLabel, close);
        const opened = client?.open({ ...passedOn(widget), ...ours });
        if (!client || opened === null) return refuse("Human API's client is missing or open.");
        // If a reload closes the Connect widget, the next `resume` posts this empty result to get the connection.
        if (!isPopup) stored(key, {});
      }),
      signal,
    );
  } finally {
    leave?.(signal.aborted);
  }
}

/** Returns the options of Human API's client that a page may choose. */
const passedOn = (widget = {}) =>
  Object.fromEntries(Object.entries(widget).filter(([name, value]) => !OUR_OPTIONS.includes(name) && typeof value !== "function"));

/**
 * Makes the page inert, because the widget covers it. The returned function undoes this and gives the focus back. If the widget sends no
 * message for a while, it may not have loaded: a button closes it then.
 */
function guard(closeLabel = "Close", onClose) {
  const page = globalThis.document?.body;
  if (!page) return () => {};
  const opener = /** @type {HTMLElement} */ (document.activeElement);
  const covered = [.../** @type {any} */ (page.children)].filter((element) => !element.inert);
  const setInert = (inert) => covered.forEach((element) => (element.inert = inert));
  const button = document.createElement("button");
  button.textContent = closeLabel;
  button.style.cssText = "position:fixed;top:8px;left:8px;z-index:100000";
  button.onclick = () => {
    removeWidget();
    onClose();
  };
  const timer = setTimeout(() => closeLabel && page.append(button), CLOSABLE_AFTER_MS);
  const hide = () => {
    clearTimeout(timer);
    button.remove();
  };
  const onMessage = ({ data }) => /hapi-connect-/.test(data?.type ?? data) && hide();
  addEventListener("message", onMessage);
  setInert(true);
  return (isAborted) => {
    removeEventListener("message", onMessage);
    hide();
    if (isAborted) removeWidget();
    setInert(false);
    opener?.focus(); // a hidden frame would keep the focus
  };
}

function removeWidget() {
  // The Connect client removes its frame and its listeners. A listener that stayed would take the message with which the next widget closes.
  dispatchEvent(new MessageEvent("message", { data: { type: "hapi-connect-close" } }));
  document.getElementById("human-connect")?.remove(); // the popup
}

/** Posts the widget's result. The result stays stored until the backend has given a final answer. */
async function finish(settings, result, key, signal) {
  stored(key, result); // before anything else, because a popup returns its session only once
  if ((await storageKey(settings, signal)) !== key) {
    throw new HumanConnectError("user_changed", "Another user signed in.");
  }
  notify(settings, { type: "finishing" });
  try {
    const connection = await call(settings, "POST /connect/finish", signal, result);
    stored(key, null);
    notify(settings, { type: "finished", connection });
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
async function storageKey(settings, signal) {
  const token = await abortable(settings.getToken(false), signal);
  let user;
  try {
    user = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).sub;
  } catch {
    // the token is not a JWT, so the user is unknown and nothing is stored
  }
  return user && `human-connect ${address(settings)} ${user}`;
}

/** Calls `onEvent` in a microtask, so that its exceptions do not end the call. */
const notify = (settings, event) => queueMicrotask(() => settings.onEvent?.(event));
