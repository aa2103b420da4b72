// The helpers that exist only here: sign-in without a password, a look into the table, the stand-in's switches.

import { Refusal } from "./refusal.js";

export const state = () => call("/local/state");
export const signIn = (user, email) => call("/local/sign-in", { user, email }).then((answer) => answer.token);
export const accessToken = (clientUserId, forceRefresh) => call("/local/access-token", { clientUserId, forceRefresh });
export const record = (user) => call(`/local/record?user=${encodeURIComponent(user)}`).then((answer) => answer.record);
export const calls = (after) => call(`/local/calls?after=${after}`);
export const standIn = (action, details = {}) => call("/local/stand-in", { action, ...details });

async function call(url, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(url, { ...(body && post), cache: "no-store" });
  } catch (error) {
    throw Refusal.unanswered(error);
  }
  if (!response.ok) throw await Refusal.of(response);
  return response.status === 204 ? null : response.json();
}
