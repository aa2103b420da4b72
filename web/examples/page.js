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
  status.textContent = `That did not work: ${error.message}`; // error.code says which way, openapi.yaml what it means
}

/** One thing at a time: an answer that comes late must not hide a newer one. */
function run(work) {
  button.disabled = true;
  work.then(show, failed).finally(() => (button.disabled = false));
}

button.onclick = () => run(connect(backend));

// what a reload has cut off; else what is connected
run(resume(backend).then((finished) => finished ?? call(backend, "GET /connect/connection")));
