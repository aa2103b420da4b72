// Requests that only the local stack answers: sign-in without a password, the record, the calls, the switches.

import { ConnectError } from "./human-connect-backend.js";

export const state = () => send("/local/state");
export const signIn = (user, email) => send("/local/sign-in", { user, email }).then((answer) => answer.token);
export const asBackend = (what, body) => send(`/local/backend/${what}`, body);
export const record = (user) => send(`/local/record?user=${encodeURIComponent(user)}`).then((answer) => answer.record);
export const calls = (after) => send(`/local/calls?after=${after}`);
export const exchange = (id) => send(`/local/calls/${id}`);
export const events = (after) => send(`/local/events?after=${after}`).then((answer) => answer.events);
export const maintain = (event) => send("/2015-03-31/functions/maintenance/invocations", event, { Authorization: "AWS4-HMAC-SHA256 made-up" });
export const standIn = (action, details = {}) => send("/local/stand-in", { action, ...details });

async function send(url, body, headers) {
  const post = { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(url, { ...(body && post), cache: "no-store" });
  } catch {
    throw new ConnectError(0, { message: "The local server does not respond. Is it still running?" });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ConnectError(response.status, answer);
  return answer;
}
