// The Connect generation's widget: sends objects `{type, status, …}` to the page around it.

import { send } from "./service.js";
import { SourceList } from "./source-list.js";

const FAILURES = {
  SESSION_TOKEN_EXPIRED: ["Your session has expired", "Go back to the app and open Connect again."],
  SESSION_TOKEN_INVALID: ["This session is not valid", "Go back to the app and open Connect again."],
  MISSING_SESSION_TOKEN: ["No session was given", "The app opened Connect without a token."],
};

const token = new URLSearchParams(location.search).get("token") ?? "";
const connectedSources = [];
const disconnectedSources = [];
let currentConnections = [];
let status = "SUCCESS";

const list = document.getElementById("sources");
const failure = document.getElementById("failure");

function tell(type, as = status) {
  // The content security policy's frame-ancestors restricts the parent.
  parent.postMessage({
    type: `hapi-connect-${type}`,
    status: as,
    sessionResults: { connectedSources, disconnectedSources, requestedSources: [] },
    currentConnections,
    requestedProviders: [],
  }, "*");
}

const close = () => tell("close");

async function toggle({ id, name }, connect) {
  const [into, outOf] = connect ? [connectedSources, disconnectedSources] : [disconnectedSources, connectedSources];
  try {
    const { sources } = await send(connect ? "/widget/connect" : "/widget/disconnect", { token, sourceId: id });
    currentConnections = sources.map((source) => ({ id: source.id, name: source.name }));
  } catch (error) {
    fail(error);
    return currentConnections;
  }
  const undone = outOf.findIndex((source) => source.id === id);
  if (undone >= 0) outOf.splice(undone, 1);
  else into.push({ id, name });
  tell(connect ? "connect-source" : "disconnect-source", connect ? "CONNECTED_SOURCE" : "DISCONNECTED_SOURCE");
  return currentConnections;
}

function fail(error) {
  status = error.code ?? "ERROR";
  const [title, text] = FAILURES[error.code] ?? ["Connect is not available", error.message];
  failure.querySelector("h2").textContent = title;
  failure.querySelector(".text").textContent = text;
  failure.querySelector(".code").textContent = status;
  for (const id of ["loading", "sources", "done"]) document.getElementById(id).hidden = true;
  failure.hidden = false;
  failure.querySelector("button").focus();
}

document.getElementById("close").onclick = close;
document.getElementById("done").onclick = close;
failure.querySelector("button").onclick = close;
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.target.value) close(); // in a filled search field, Escape empties it
});

try {
  const { sources, catalogue } = await send("/widget/open", { token });
  currentConnections = sources.map(({ id, name }) => ({ id, name }));
  const shown = new SourceList(list, catalogue, sources, toggle);
  document.getElementById("loading").hidden = true;
  document.getElementById("done").hidden = false;
  list.hidden = false;
  shown.focus();
} catch (error) {
  fail(error);
}
