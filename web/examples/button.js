// Human API's button form: the client opens the widget by itself, with the token that stands in `data-hapi-token`.
import { call } from "./human-connect-backend.js";
import { api, getToken } from "./your-app.js";

const backend = { api, getToken };
const status = document.getElementById("connection");
const button = document.getElementById("connect");

function show({ connected, sources }) {
  status.textContent = connected
    ? `Connected: ${sources.map((source) => source.name).join(", ") || "yes"}`
    : "Nothing connected yet.";
}

function failed(error) {
  status.textContent = `That did not work: ${error.message}`;
}

/** Shows what is connected and lets the button open the widget: a connected user's needs another kind of token. */
async function ready(answer) {
  button.disabled = true;
  await answer.then(show, failed);
  try {
    const { token } = await call(backend, "POST /connect/session", { flow: "connect" });
    button.dataset.hapiToken = token;
    button.disabled = false;
  } catch (error) {
    failed(error);
  }
}

const finish = (response) => call(backend, "POST /connect/finish", response);

// at once, so that a reload of the page loses nothing; what it says, and whether it could be had, is seen at the end
window.HumanConnect?.on("connect", () => void finish({}).catch(() => {}));
window.HumanConnect?.on("close", ({ type, ...response }) => ready(finish(response)));

if (window.HumanConnect) ready(call(backend, "GET /connect/connection"));
else failed(new Error("Human API's client did not load."));
