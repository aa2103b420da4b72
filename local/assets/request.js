// Two buttons of a request to API Gateway: copy it as a command, and send it again.

import * as localStack from "./local-stack.js";

/** Only these headers matter to the backend. */
const HEADERS = ["authorization", "content-type"];

/** @param {(request: object) => void} onAgain */
export function requestButtons(call, onAgain) {
  const curl = button("Copy as curl", call.what);
  curl.onclick = async () => {
    await navigator.clipboard.writeText(command(await read(call)));
    curl.firstChild.data = "Copied";
    setTimeout(() => (curl.firstChild.data = "Copy as curl"), 2000);
  };
  const again = button("Send again", call.what);
  again.onclick = async () => onAgain(await read(call));
  return [curl, again];
}

async function read(call) {
  const { event } = await localStack.exchange(call.id);
  const headers = Object.fromEntries(HEADERS.filter((name) => event.headers[name]).map((name) => [name, event.headers[name]]));
  const body = event.isBase64Encoded ? decoded(event.body) : event.body;
  return { method: event.requestContext.http.method, path: event.rawPath, headers, body };
}

/** API Gateway encodes a body that is neither text nor JSON, for example a form. */
const decoded = (body) => new TextDecoder().decode(Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0)));

function command({ method, path, headers, body }) {
  const parts = [`curl -X ${method} ${quoted(location.origin + path)}`];
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body) parts.push(`--data-raw ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

/** Quotes a word for a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function button(text, what) {
  const node = document.createElement("button");
  node.type = "button";
  node.className = "request-button";
  const unseen = document.createElement("span");
  unseen.className = "unseen";
  unseen.textContent = `: ${what}`;
  node.append(text, unseen);
  return node;
}
