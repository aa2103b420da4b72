/*
 * human-connect-backend.js runs in Chrome, Edge and Android WebView 80, Safari 13.1 (iOS 13.4), Firefox 74, and everything newer.
 * The module needs ES2020 syntax, `fetch` and `AbortController`. The module works without `AbortSignal.timeout` and
 * `sessionStorage`. Without `sessionStorage`, a reload loses a session that is not finished.
 */

/** The user's connection, as stored by the backend. */
export interface Connection {
  connected: boolean;
  humanId: string | null;
  flow: "connect" | "popup" | null;
  sources: { id: string; name: string }[];
  /** RFC 3339 */
  updatedAt: string | null;
  /** Opens the popup for a returning user. Present only in the response to a finish. */
  publicToken?: string | null;
  /** RFC 3339. Absent in the response to a finish. */
  connectedAt?: string | null;
}

export interface Options {
  /** The backend's address: the stack's `ApiUrl`, or your custom domain. The client removes slashes at the end. */
  api: string;
  /**
   * Returns the signed-in user's JWT. Its `sub` distinguishes the users of one tab. If the token has no readable `sub`, nothing is
   * stored, so a reload loses an unfinished session. If `refresh` is true, the last token may have expired: return a new one. The
   * client sets `refresh` at most twice per call: after the first 401, and after the first attempt without an answer. A browser hides
   * a 401 that has no CORS headers. If this function fails after an attempt without an answer, the client uses the last token. Any
   * other failure ends the call.
   */
  getToken(refresh: boolean): string | Promise<string>;
  /** The requested widget generation; the backend's default if absent. The backend may choose the other one. */
  flow?: "connect" | "popup";
  /** The e-mail address of a new user whose JWT has no e-mail claim. */
  email?: string;
  /** Human API's client of this generation; `globalThis.HumanConnect` if absent. */
  client?(flow: "connect" | "popup"): HumanConnect | undefined | Promise<HumanConnect | undefined>;
  /** Called for each step. */
  onProgress?(step: Step, detail?: unknown): void;
  /**
   * Ends `connect`'s wait for the widget, for example if the user leaves the page or the widget never loads. `connect` then rejects
   * with the signal's reason, or with an `AbortError` in a browser without reasons. The page must remove the widget's frame. The next
   * `resume` or `connect` finishes the session. If calls were joined, only the first call's signal counts.
   */
  signal?: AbortSignal;
}

/**
 * The steps and their details:
 *
 * - `starting`
 * - `opened`: {flow, mode}
 * - `connected` and `disconnected`: the widget's report of a source
 * - `closed`: a popup was closed without a session to finish
 * - `finishing`
 * - `waiting`: {seconds, code}, before another attempt. If `fetch` gets no answer at all, `code` is "network". This also happens on a
 *   page whose origin the backend does not allow (`AllowedOrigins`).
 * - `finished`: the connection
 *
 * If `onProgress` throws, the page's error handler reports the exception, and the call continues.
 */
export type Step =
  | "starting"
  | "opened"
  | "connected"
  | "disconnected"
  | "closed"
  | "finishing"
  | "waiting"
  | "finished";

/** Human API's own client. */
export interface HumanConnect {
  open(options: object): void;
}

/** A failed call. A request that cannot be made rejects at once with its own error instead, usually a `TypeError`. */
export class ConnectError extends Error {
  /** The HTTP status; 0 if there was no answer. */
  status: number;
  /** The backend's code (`openapi.yaml`), `gateway` for API Gateway's own answers, `network`, `widget`, or `user_changed`. */
  code: string;
  /** Identifies the request in the backend's logs. */
  requestId?: string;
  /** Seconds until the same call may succeed, if the response has them. */
  retryAfter?: number | null;
  constructor(
    status: number,
    answer: { code?: string; detail?: string; message?: string; requestId?: string },
    retryAfter?: number | null,
  );
}

/**
 * Starts a session, opens Human API's client, and posts the client's result. A second call of the same user joins the first. If the
 * popup reports "User Already Exists", the Connect widget opens, because it accepts a known user.
 */
export function connect(options: Options): Promise<Connection>;

/**
 * Finishes a session that a reload interrupted. Returns null if there is none. Waits for a `connect` that is in progress. Call it
 * after the page has loaded.
 */
export function resume(options: Options): Promise<Connection | null>;

/** Makes one call as the signed-in user, and retries it after transient errors. */
export function call(options: Options, route: "GET /connect/connection"): Promise<Connection>;
export function call(options: Options, route: "DELETE /connect/connection"): Promise<object>;
export function call(
  options: Options,
  route: "POST /connect/public-token",
  body?: { refresh?: boolean },
): Promise<{ humanId: string; publicToken: string; recovered: boolean }>;
/** `connect` makes these two calls itself. They are for pages that open Human API's client in another way: see `openapi.yaml`. */
export function call(options: Options, route: "POST /connect/session" | "POST /connect/finish", body: object): Promise<any>;
