// Requests of the stand-in's two pages to its own endpoints.

export class Refused extends Error {
  constructor(status, body) {
    super(body.message ?? body.status ?? `answered ${status}`);
    /** `SESSION_TOKEN_EXPIRED` …, `USER_ALREADY_EXISTS` …, or null without a response. */
    this.code = body.status ?? body.code ?? null;
  }
}

export async function send(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, { message: "Human API could not be reached." });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}
