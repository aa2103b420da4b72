/*
 * human-connect.js runs in Chrome, Edge and Android WebView 80, Safari 13.1 (iOS 13.4), Firefox 74, and everything newer.
 * The module needs ES2020 syntax, `fetch` and `AbortController`. Without `sessionStorage`, a reload loses a session that is not
 * finished. The module can be imported on a server, where nothing can be called.
 */

/** The two generations of Human API's widget. */
export type Flow = "connect" | "popup";

/** The user's connection, as stored by the backend. */
export interface Connection {
  connected: boolean;
  humanId: string | null;
  flow: Flow | null;
  sources: { id: string; name: string }[];
  /** RFC 3339 */
  updatedAt: string | null;
  /** Opens the popup for a returning user. Present only in the response to a finish. */
  publicToken?: string | null;
  /** RFC 3339. Absent in the response to a finish. */
  connectedAt?: string | null;
}

/** The response of `POST /connect/session`. */
export type Session =
  | {
      flow: "connect";
      mode: "create" | "edit";
      token: string;
      tokenType: "session_token" | "id_token";
      humanId: string | null;
      /** RFC 3339 */
      expiresAt: string;
      /** seconds */
      expiresIn: number;
    }
  | {
      flow: "popup";
      mode: "create" | "edit";
      clientId: string;
      /** Percent-encoded, as connect.js and the iOS SDK need it. */
      clientUserId: string;
      /** Empty for a new user. */
      publicToken: string;
      /** A mobile SDK posts the popup's session here. */
      finishUrl: string;
    };

/**
 * What happens, in this order:
 *
 * - `starting`: `connect` requests a session.
 * - `opened`: the widget is open.
 * - `source-connected` and `source-disconnected`: a report of the Connect widget.
 * - `closed`: the user has closed a popup, and there is nothing to finish.
 * - `finishing`: the widget's result goes to the backend.
 * - `finished`: the backend has answered.
 *
 * `waiting` can come between all of them, before another attempt of a call. If `fetch` gets no answer at all, `code` is "network". This
 * also happens on a page whose origin the backend does not allow (`AllowedOrigins`).
 */
export type HumanConnectEvent =
  | { type: "starting" }
  | { type: "opened"; flow: Flow; mode: "create" | "edit" }
  | { type: "source-connected" | "source-disconnected"; report: unknown }
  | { type: "closed" }
  | { type: "finishing" }
  | { type: "waiting"; seconds: number; code: ErrorCode }
  | { type: "finished"; connection: Connection };

/** The backend's codes: docs/api.md says what each means, and what to do. */
export type BackendErrorCode =
  | "invalid_request"
  | "email_required"
  | "unauthenticated"
  | "forbidden"
  | "client_mismatch"
  | "user_mismatch"
  | "not_connected"
  | "not_found"
  | "method_not_allowed"
  | "body_too_large"
  | "unsupported_media_type"
  | "finish_in_progress"
  | "reconnect_required"
  | "connection_revoked"
  | "connection_deleted"
  | "session_rejected"
  | "upstream_invalid"
  | "upstream_unauthorized"
  | "upstream_unavailable"
  | "store_unavailable"
  | "secret_unavailable"
  | "upstream_timeout";

export type ErrorCode =
  | BackendErrorCode
  /** API Gateway answered, and not a function: for example 401 for an expired JWT, or 429. */
  | "gateway"
  /** No answer. */
  | "network"
  /** The answer is not JSON, so `api` is probably not the backend's address. */
  | "not_json"
  /** Human API's client is missing, or the widget reported an error. */
  | "widget"
  /** Another user signed in while the widget was open. */
  | "user_changed";

/** A failed call. A request that cannot be made rejects with its own error instead, usually a `TypeError`. An aborted one rejects with the signal's reason. */
export class HumanConnectError extends Error {
  name: "HumanConnectError";
  code: ErrorCode;
  /** The HTTP status; 0 if there was no answer. */
  status: number;
  /** The error behind this one, if there is one. */
  cause?: unknown;
  /** Identifies the request in the backend's logs. */
  requestId?: string;
  /** Seconds until the same call may succeed, if the response has them. */
  retryAfter?: number | null;
  constructor(
    code: ErrorCode,
    message: string,
    more?: { status?: number; cause?: unknown; requestId?: string; retryAfter?: number | null },
  );
}

/** Human API's own client. */
export interface HumanApiClient {
  open(options: object): unknown;
}

export interface Settings {
  /** The backend's address: the stack's `ApiUrl`, or your custom domain. The module removes slashes at the end. */
  api: string;
  /**
   * Returns the signed-in user's JWT. Its `sub` distinguishes the users of one tab. If the token has no readable `sub`, nothing is
   * stored, so a reload loses an unfinished session. If `refresh` is true, the last token may have expired: return a new one. The
   * module sets `refresh` at most twice per call: after the first 401, and after the first attempt without an answer. A browser hides
   * a 401 that has no CORS headers. If this function fails after an attempt without an answer, the module uses the last token. Any
   * other failure ends the call.
   */
  getToken(refresh: boolean): string | Promise<string>;
  /** Returns Human API's client of this generation. The default is `globalThis.HumanConnect`. */
  loadClient?(flow: Flow): HumanApiClient | undefined | Promise<HumanApiClient | undefined>;
  /** Called for each event. If it throws, the page's error handler reports the exception, and the call continues. */
  onEvent?(event: HumanConnectEvent): void;
  /**
   * Text of a button that closes the widget; "Close" by default. It appears at the top left after 8 seconds without a message from the
   * widget, which then may not have loaded. With an empty text, there is no button.
   */
  closeLabel?: string;
}

/** Options of Human API's client. The module passes them on, but never a token, an id or a function. */
export interface WidgetOptions {
  mode?: string;
  segment?: string;
  pinnedProviders?: string;
  preseed?: boolean;
  enableFocusTrap?: boolean;
  /** The popup's language, for example "en". */
  language?: string;
  [name: string]: unknown;
}

export interface CallOptions {
  /** Ends the call's waiting, and closes an open widget. The call rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface SessionOptions extends CallOptions {
  /** The requested generation; the backend's default if absent. The backend may choose the other one. */
  flow?: Flow;
  /** The e-mail address of a new user whose JWT has no e-mail claim. */
  email?: string;
}

export interface HumanConnect {
  /**
   * Starts a session, opens Human API's client, and posts the client's result. While the widget is open, the page is inert. A second
   * call of the same user joins the first, and the widget closes when all of them have aborted. If the popup reports "User Already
   * Exists", the Connect widget opens, because it accepts a known user.
   */
  connect(options?: SessionOptions & { widget?: WidgetOptions }): Promise<Connection>;
  /**
   * Finishes a session that a reload interrupted. Returns null if there is none. Waits for a `connect` that is in progress. Call it after
   * the page has loaded.
   */
  resume(options?: CallOptions): Promise<Connection | null>;
  getConnection(options?: CallOptions): Promise<Connection>;
  /** `recovered` is true if the backend had to request the token from Human API. With `refresh`, it always does. */
  getPublicToken(options?: CallOptions & { refresh?: boolean }): Promise<{ humanId: string; publicToken: string; recovered: boolean }>;
  /** Deletes everything that the backend has about the user. */
  forget(options?: CallOptions): Promise<object>;
  /** For a page that opens the widget itself. With `refresh`, the token is a new one. */
  getSession(options?: SessionOptions & { refresh?: boolean }): Promise<Session>;
  /** For a page that opens the widget itself: posts the widget's result, as the widget has given it. */
  finish(result: object, options?: CallOptions): Promise<Connection>;
}

export function createHumanConnect(settings: Settings): HumanConnect;
