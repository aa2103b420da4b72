// The helpers that exist only here: sign-in without a password, a look into the table and at the calls, the switches.

import { ConnectError } from "./human-connect-backend.js";

export const state = () => ask("/local/state");
export const signIn = (user, email) => ask("/local/sign-in", { user, email }).then((answer) => answer.token);
export const accessToken = (clientUserId, forceRefresh) => ask("/local/access-token", { clientUserId, forceRefresh });
export const record = (user) => ask(`/local/record?user=${encodeURIComponent(user)}`).then((answer) => answer.record);
export const calls = (after) => ask(`/local/calls?after=${after}`);
export const exchange = (id) => ask(`/local/calls/${id}`);
export const sweep = () => ask("/local/sweep", {});
export const standIn = (action, details = {}) => ask("/local/stand-in", { action, ...details });

async function ask(url, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(url, { ...(body && post), cache: "no-store" });
  } catch {
    throw new ConnectError(0, { message: "The local server gave no answer. Is it still running?" });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ConnectError(response.status, answer);
  return answer;
}
