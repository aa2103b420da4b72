// The popup generation's page: exchanges JSON strings with connect.js around it.
// The user gets a session token only by finishing after a connect. If only a source was removed, the popup just closes.

import { send } from "./service.js";
import { SourceList } from "./source-list.js";

const query = new URLSearchParams(location.search);
const who = {
  clientUserId: encodeURIComponent(query.get("clientUserId") ?? ""),
  clientId: query.get("clientId") ?? "",
  publicToken: query.get("publicToken") ?? "",
};
let connected = [];
let added = false;
let finishing = false;

const list = document.getElementById("sources");
const failure = document.getElementById("failure");

function tell(type, details) {
  // The content security policy's frame-ancestors restricts the parent.
  parent.postMessage(JSON.stringify({ type: `hapi-connect-${type}`, ...details }), "*");
}

async function leave() {
  if (finishing) return;
  if (!added) {
    tell("close");
    return;
  }
  finishing = true;
  try {
    tell("finish", { token: await send("/popup/finish", who) });
  } catch (error) {
    added = false; // then the popup can only close
    fail(error);
  } finally {
    finishing = false;
  }
}

async function toggle({ id }, connect) {
  try {
    const { sources } = await send(connect ? "/popup/connect" : "/popup/disconnect", { ...who, sourceId: id });
    added ||= connect;
    connected = sources;
  } catch (error) {
    fail(error);
  }
  return connected;
}

function fail(error) {
  const code = error.code ?? "UNAVAILABLE";
  failure.querySelector("h2").textContent = error.message;
  failure.querySelector(".text").textContent = "Human Connect cannot continue. Close it and try again from the app.";
  failure.querySelector(".code").textContent = code;
  for (const id of ["loading", "opened", "done"]) document.getElementById(id).hidden = true;
  failure.hidden = false;
  failure.querySelector("button").focus();
  tell("error", { error: { code, message: error.message, detailedMessage: `Human Connect: ${error.message}` } });
}

document.getElementById("close").onclick = leave;
document.getElementById("done").onclick = leave;
failure.querySelector("button").onclick = leave;
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.target.value) leave(); // in a filled search field, Escape empties it
});

try {
  const opened = await send("/popup/open", who);
  connected = opened.sources;
  const shown = new SourceList(list, opened.catalogue, connected, toggle);
  document.getElementById("heading").textContent = who.publicToken ? "Your connections" : "Connect your health data";
  document.getElementById("loading").hidden = true;
  document.getElementById("opened").hidden = false;
  document.getElementById("done").hidden = false;
  shown.focus();
  tell("open", { token: { sessionToken: opened.sessionToken ?? null } });
} catch (error) {
  fail(error);
}
