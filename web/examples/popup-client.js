// The popup through human-connect.js. A user whom Human API knows, but who has no public token, gets the Connect widget.
import { clients } from "./clients.js";
import { createHumanConnect } from "./human-connect.js";
import { api, getToken } from "./your-app.js";

const status = document.getElementById("connection");
const button = document.getElementById("connect");
const backend = createHumanConnect({ api, getToken, loadClient: clients() });

const show = ({ connected, flow }) => (status.textContent = connected ? `Connected by ${flow}.` : "Nothing connected yet.");
const failed = (error) => (status.textContent = `That did not work: ${error.message}`);

function run(work) {
  button.disabled = true;
  work.then(show, failed).finally(() => (button.disabled = false));
}

button.onclick = () => run(backend.connect({ flow: "popup" }));
run(backend.resume().then((finished) => finished ?? backend.getConnection()));
