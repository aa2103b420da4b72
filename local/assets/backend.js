// The product's API, called as an app's own page calls it. It never sees an access token.

import { Refusal } from "./refusal.js";

const TRIES = 4;
const LONGEST_WAIT_S = 10;
const TIMEOUT_MS = 31_000; // API Gateway gives up at 30 s

export class Backend {
  #token;
  #onWait;

  /**
   * @param {(fresh: boolean) => Promise<string>} token the user's JWT; `fresh` after a 401
   * @param {(seconds: number, tryNumber: number) => void} onWait told before each wait for another try
   */
  constructor(token, onWait) {
    this.#token = token;
    this.#onWait = onWait;
  }

  /** What the page needs to open the widget. The answer's `flow` may differ from the one asked for. */
  startSession(wishes) {
    return this.#call("POST", "/connect/session", wishes);
  }

  /** Posts what the widget gave back: a popup's sessionTokenObject, or a Connect `onClose` response. */
  finish(callback) {
    return this.#call("POST", "/connect/finish", callback);
  }

  /** The same as a mobile SDK does it: the ticket in the URL is the proof, no header is sent. */
  finishByTicket(finishUrl, callback) {
    return this.#call("POST", finishUrl, callback, { signed: false });
  }

  publicToken() {
    return this.#call("POST", "/connect/public-token");
  }

  connection() {
    return this.#call("GET", "/connect/connection");
  }

  forget() {
    return this.#call("DELETE", "/connect/connection");
  }

  async #call(method, url, body, { signed = true } = {}) {
    let fresh = false;
    for (let tried = 1; ; tried += 1) {
      const headers = {};
      if (signed) headers.Authorization = `Bearer ${await this.#token(fresh)}`;
      if (body) headers["Content-Type"] = "application/json";
      const response = await send(url, { method, headers, body: body && JSON.stringify(body) });
      if (response.ok) return response.status === 204 ? null : response.json();

      const refusal = await Refusal.of(response);
      if (refusal.status === 401 && signed && !fresh) {
        fresh = true; // the JWT may have expired: once more with a new one
      } else if ([409, 503].includes(refusal.status) && refusal.retryAfter !== null && tried < TRIES) {
        const wait = Math.min(refusal.retryAfter, LONGEST_WAIT_S);
        this.#onWait(wait, tried + 1);
        await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      } else {
        throw refusal;
      }
    }
  }
}

async function send(url, options) {
  try {
    return await fetch(url, { ...options, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    throw Refusal.unanswered(error);
  }
}
