// An answer that is not the one asked for, in one form whoever gave it: a function (problem+json),
// API Gateway (`{"message"}`), or nobody (the network, a timeout).

export class Refusal extends Error {
  constructor({ status, code, detail, requestId, retryAfter }) {
    super(detail);
    this.name = "Refusal";
    this.status = status;
    this.code = code;
    this.requestId = requestId;
    /** Seconds to wait before the same call may succeed; null when the answer does not invite another try. */
    this.retryAfter = retryAfter ?? null;
  }

  /** The same call, sent again later, may well succeed. */
  get passing() {
    return this.status === 0 || this.status >= 500 || this.retryAfter !== null;
  }

  static async of(response) {
    const body = await response.json().catch(() => ({}));
    return new Refusal({
      status: response.status,
      code: body.code ?? "gateway",
      detail: body.detail ?? body.message ?? `The answer was ${response.status}.`,
      requestId: body.requestId,
      retryAfter: seconds(response.headers.get("Retry-After")),
    });
  }

  static unanswered(error) {
    const late = error.name === "TimeoutError";
    return new Refusal({
      status: 0,
      code: late ? "timeout" : "network",
      detail: late ? "No answer came in time." : "The server could not be reached.",
    });
  }
}

/** `Retry-After` is a number of seconds or a date. */
function seconds(header) {
  if (header === null) return null;
  const number = Number(header);
  if (Number.isFinite(number)) return Math.max(0, number);
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, (date - Date.now()) / 1000);
}
