// Requests that only the local program answers: sign-in without a password, the record, the calls, the simulation.

import { HumanConnectError } from "./human-connect.js";

export const state = () => send("/local/state");
export const signIn = (user, email) => send("/local/sign-in", { user, email }).then((answer) => answer.token);
export const asBackend = (what, body) => send(`/local/backend/${what}`, body);
export const record = (user) => send(`/local/record?user=${encodeURIComponent(user)}`).then((answer) => answer.record);
export const calls = (after) => send(`/local/calls?after=${after}`);
export const exchange = (id) => send(`/local/calls/${id}`);
export const beginAction = (title, kind) => send("/local/actions", { title, kind }).then((answer) => answer.id);
export const endAction = (id) => send(`/local/actions/${id}/end`, {});
export const events = (after) => send(`/local/events?after=${after}`).then((answer) => answer.events);
export const maintain = (event) => send("/2015-03-31/functions/maintenance/invocations", event, { Authorization: "AWS4-HMAC-SHA256 made-up" });
/** Returns `{changed, title, next}`. */
export const simulate = (action, details = {}) => send("/local/stand-in", { action, ...details });

async function send(url, body, headers) {
  const post = { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(url, { ...(body && post), cache: "no-store" });
  } catch (cause) {
    throw new HumanConnectError("network", "The local program does not answer. Is it still running?", { cause });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new HumanConnectError("gateway", answer.message ?? answer.errorMessage ?? `The local program answered ${response.status}.`, { status: response.status });
  return answer;
}
