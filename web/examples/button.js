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

/** Shows what is connected and lets the button open the widget: a connected user's needs another kind of token. */
async function ready(answer) {
  button.disabled = true;
  try {
    show(await answer);
    const { token } = await call(backend, "POST /connect/session", { flow: "connect" });
    button.dataset.hapiToken = token;
    button.disabled = false;
  } catch (error) {
    status.textContent = `That did not work: ${error.message} Load the page again.`;
  }
}

HumanConnect.on("close", ({ type, ...response }) => ready(call(backend, "POST /connect/finish", response)));

ready(call(backend, "GET /connect/connection"));
