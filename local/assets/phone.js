// Connects as the iOS SDK does: opens the popup's page, and posts the session to `finishUrl`, which the SDK calls `authURL`.
// The SDK sends no Authorization header: the ticket in that URL authenticates the request.
// The SDK inserts the user's id unencoded into the popup's address, as connect.js does, so both get `clientUserId`, the encoded form.

import { call, connect, ConnectError } from "./human-connect-backend.js";

/** @param {import("./human-connect-backend.js").Options} options */
export async function connectAsPhone(options) {
  options.onProgress("starting");
  const session = await call(options, "POST /connect/session", { flow: "popup" });
  // a user who must reconnect needs the Connect widget
  if (session.flow !== "popup") return connect({ ...options, flow: "connect" });
  options.onProgress("opened", session);
  const sessionToken = await open(await options.client("popup"), session);
  if (!sessionToken) return call(options, "GET /connect/connection");
  options.onProgress("finishing");
  return post(session.finishUrl, sessionToken);
}

function open(client, { clientUserId, clientId, publicToken }) {
  return new Promise((resolve, reject) => {
    let failure;
    const refused = ({ message }) => new ConnectError(0, { code: "widget", message });
    client.open({
      clientUserId,
      clientId,
      publicToken,
      finish: (error, token) => (error ? reject(refused(error)) : resolve(token)),
      close: () => (failure ? reject(refused(failure)) : resolve()),
      error: (error) => (failure = error),
    });
  });
}

async function post(url, body) {
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(url, request).catch(() => null);
  const answer = (await response?.json().catch(() => ({}))) ?? {};
  if (!response?.ok) throw new ConnectError(response?.status ?? 0, answer);
  return answer;
}
