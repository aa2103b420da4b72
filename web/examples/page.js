import { call, connect, resume } from "./human-connect-backend.js";
import { api, getToken } from "./your-app.js";

const status = document.getElementById("connection");
const button = document.getElementById("connect");
const backend = { api, getToken, onProgress };

function onProgress(step) {
  if (step === "waiting") status.textContent = "This takes longer than usual…";
}

function show({ connected, sources }) {
  status.textContent = connected
    ? `Connected: ${sources.map((source) => source.name).join(", ") || "yes"}`
    : "Nothing connected yet.";
}

function failed(error) {
  status.textContent = `That did not work: ${error.message}`; // openapi.yaml explains each error.code
}

/** Runs one call at a time, so that a late answer cannot replace a newer one. */
function run(work) {
  button.disabled = true;
  work.then(show, failed).finally(() => (button.disabled = false));
}

button.onclick = () => run(connect(backend));

// finishes a session that a reload interrupted; otherwise shows the connection
run(resume(backend).then((finished) => finished ?? call(backend, "GET /connect/connection")));
