// Requests that only the local stack answers: sign-in without a password, the record, the calls, the switches.

import { ConnectError } from "./human-connect-backend.js";

export const state = () => send("/local/state");
export const signIn = (user, email) => send("/local/sign-in", { user, email }).then((answer) => answer.token);
export const accessToken = (clientUserId, forceRefresh) => send("/local/access-token", { clientUserId, forceRefresh });
export const record = (user) => send(`/local/record?user=${encodeURIComponent(user)}`).then((answer) => answer.record);
export const calls = (after) => send(`/local/calls?after=${after}`);
export const exchange = (id) => send(`/local/calls/${id}`);
export const sweep = () => send("/local/sweep", {});
export const standIn = (action, details = {}) => send("/local/stand-in", { action, ...details });

async function send(url, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
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
