// Human API's button form: the client itself opens the widget, with the token in `data-hapi-token`.
import { createHumanConnect } from "./human-connect.js";
import { api, getToken } from "./your-app.js";

const backend = createHumanConnect({ api, getToken });
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

/** Shows the connection and enables the button. It gets a new token, because a connected user needs another kind of token. */
async function ready(answer) {
  button.disabled = true;
  await answer.then(show, failed);
  try {
    const { token } = await backend.getSession({ flow: "connect" });
    button.dataset.hapiToken = token;
    button.disabled = false;
  } catch (error) {
    failed(error);
  }
}

// Finishes after each source, so that a reload loses nothing. The finish on "close" shows the result and any error.
window.HumanConnect?.on("connect", () => void backend.finish({}).catch(() => {}));
window.HumanConnect?.on("close", ({ type, ...response }) => ready(backend.finish(response)));

if (window.HumanConnect) ready(backend.getConnection());
else failed(new Error("Human API's client did not load."));
