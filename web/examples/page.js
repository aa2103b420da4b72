import { createHumanConnect } from "./human-connect.js";
import { api, getToken, loadClient } from "./your-app.js";

const status = document.getElementById("connection");
const button = document.getElementById("connect");
const backend = createHumanConnect({ api, getToken, loadClient, onEvent });

function onEvent({ type }) {
  if (type === "waiting") status.textContent = "This takes longer than usual…";
}

function show({ connected, sources }) {
  status.textContent = connected
    ? `Connected: ${sources.map((source) => source.name).join(", ") || "yes"}`
    : "Nothing connected yet.";
}

function failed(error) {
  status.textContent = `That did not work: ${error.message}`; // docs/api.md explains each error.code
}

/** Runs one call at a time, so that a late answer cannot replace a newer one. */
function run(work) {
  button.disabled = true;
  work.then(show, failed).finally(() => (button.disabled = false));
}

button.onclick = () => run(backend.connect());

// finishes a session that a reload interrupted; otherwise shows the connection
run(backend.resume().then((finished) => finished ?? backend.getConnection()));
