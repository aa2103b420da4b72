// Connects as the iOS SDK does: opens the popup's page, and posts the session to `finishUrl`, which the SDK calls `authURL`.
// The SDK sends no Authorization header: the ticket in that URL authenticates the request.
// The SDK inserts the user's id unencoded into the popup's address, as connect.js does, so both get `clientUserId`, the encoded form.

import { HumanConnectError } from "./human-connect.js";

export async function connectAsPhone(backend, loadClient, onEvent, signal) {
  onEvent({ type: "starting" });
  const session = await backend.getSession({ flow: "popup", signal });
  // a user who must reconnect needs the Connect widget
  if (session.flow !== "popup") return backend.connect({ flow: "connect", signal });
  onEvent({ type: "opened", flow: session.flow, mode: session.mode });
  const sessionToken = await open(await loadClient("popup"), session, signal);
  if (!sessionToken) return backend.getConnection({ signal });
  onEvent({ type: "finishing" });
  return post(session.finishUrl, sessionToken, signal);
}

function open(client, { clientUserId, clientId, publicToken }, signal) {
  return new Promise((resolve, reject) => {
    let failure;
    const refused = ({ message }) => new HumanConnectError("widget", message);
    signal.addEventListener("abort", () => {
      document.getElementById("human-connect")?.remove();
      reject(signal.reason);
    });
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

async function post(url, body, signal) {
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
  const response = await fetch(url, request);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new HumanConnectError(answer.code ?? "gateway", answer.detail ?? answer.message ?? "The finish has failed.", { status: response.status, requestId: answer.requestId });
  return answer;
}
