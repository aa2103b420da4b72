// Human API's button form: the client opens the widget by itself, with the token that stands in `data-hapi-token`.
import { call } from "./human-connect-backend.js";
import { api, getToken } from "./your-app.js";

const backend = { api, getToken };
const status = document.getElementById("connection");

function show({ connected, sources }) {
  status.textContent = connected
    ? `Connected: ${sources.map((source) => source.name).join(", ") || "yes"}`
    : "Nothing connected yet.";
}

async function arm() {
  const { token } = await call(backend, "POST /connect/session", { flow: "connect" });
  const button = document.getElementById("connect");
  button.dataset.hapiToken = token;
  button.disabled = false;
}

HumanConnect.on("close", async ({ type, ...response }) => {
  show(await call(backend, "POST /connect/finish", response));
  await arm(); // a connected user is opened with another kind of token
});

call(backend, "GET /connect/connection").then(show).then(arm);
