/*
 * human-connect-backend.js runs in Chrome, Edge and Android WebView 80, Safari 13.1 (iOS 13.4), Firefox 74, and everything newer.
 * The module needs ES2020 syntax, `fetch` and `AbortController`. The module works without `AbortSignal.timeout` and
 * `sessionStorage`. Without `sessionStorage`, a reload loses what was under way.
 */

/** What the backend knows of the user's connection. */
export interface Connection {
  connected: boolean;
  humanId: string | null;
  flow: "connect" | "popup" | null;
  sources: { id: string; name: string }[];
  /** RFC 3339 */
  updatedAt: string | null;
  /** Only where a finish was answered: opens the popup for a returning user. */
  publicToken?: string | null;
  /** Only where nothing was finished. RFC 3339 */
  connectedAt?: string | null;
}

export interface Options {
  /** The backend's address: the stack's `ApiUrl`, or your custom domain. The client removes slashes at the end. */
  api: string;
  /**
   * The signed-in user's JWT. Its `sub` keeps the users of one tab apart; with a token that shows none, nothing is kept over a
   * reload. If `refresh` is true, the last token may have expired: bring a new one. The client sets `refresh` at most twice a call:
   * after the first 401, and after the first try without an answer. A browser hides a 401 that has no CORS headers. If this
   * function fails after a try without an answer, the client goes on with the last token. Any other failure ends the call.
   */
  getToken(refresh: boolean): string | Promise<string>;
  /** The widget generation to ask for; the backend's default if absent. The backend may decide otherwise. */
  flow?: "connect" | "popup";
  /** For a new user whose JWT has no e-mail claim. */
  email?: string;
  /** Human API's client of this generation; `globalThis.HumanConnect` if absent. */
  client?(flow: "connect" | "popup"): HumanConnect | undefined | Promise<HumanConnect | undefined>;
  /** Told of each step. */
  onProgress?(step: Step, detail?: unknown): void;
  /**
   * Ends `connect`'s wait for the widget, which then rejects with the signal's reason (an older browser gives none: with an
   * `AbortError`): for a page that is left, or a widget that
   * never loads. The widget's frame stays the page's; what was connected in it is finished by the next `resume` or `connect`. Of
   * calls that were joined, the first one's signal counts.
   */
  signal?: AbortSignal;
}

/**
 * `starting`; `opened` {flow, mode}; `connected` and `disconnected`, the widget's own report of a source; `closed`, a popup
 * without anything to finish; `finishing`; `waiting` {seconds, code} before another try, with `code` "network" where `fetch` gets
 * no answer at all: a page whose origin the backend does not allow (`AllowedOrigins`) sees just that; `finished`, the
 * connection. What `onProgress` throws is reported as the page's own error and ends nothing.
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

/** A call that did not succeed. A request that cannot be made rejects at once with its own error instead: a `TypeError`, mostly. */
export class ConnectError extends Error {
  /** The HTTP status; 0 where no answer came. */
  status: number;
  /** The backend's code (`openapi.yaml`), `gateway` for API Gateway's own answers, `network`, `widget`, or `user_changed`. */
  code: string;
  /** For the backend's logs. */
  requestId?: string;
  /** Seconds until the same call may succeed, where the answer says so. */
  retryAfter?: number | null;
  constructor(
    status: number,
    answer: { code?: string; detail?: string; message?: string; requestId?: string },
    retryAfter?: number | null,
  );
}

/**
 * Starts a session, opens Human API's client, posts what it hands back. A second call of the same user joins the first. A popup
 * that says "User Already Exists" is followed by the Connect widget, which lets the user in again.
 */
export function connect(options: Options): Promise<Connection>;

/**
 * Finishes what a reload has cut off, if there is something; else null. Waits for a `connect` that is under way. Call it when the
 * page has loaded.
 */
export function resume(options: Options): Promise<Connection | null>;

/** One call as the signed-in user, tried again while that may help. */
export function call(options: Options, route: "GET /connect/connection"): Promise<Connection>;
export function call(options: Options, route: "DELETE /connect/connection"): Promise<object>;
export function call(
  options: Options,
  route: "POST /connect/public-token",
  body?: { refresh?: boolean },
): Promise<{ humanId: string; publicToken: string; recovered: boolean }>;
/** The two that `connect` makes by itself, for pages that open Human API's client in another way: see `openapi.yaml`. */
export function call(options: Options, route: "POST /connect/session" | "POST /connect/finish", body: object): Promise<any>;
