import { call, connect, resume } from "./human-connect-backend.js";
import { clients } from "./clients.js";
import { api, getToken } from "./your-app.js";

const status = document.getElementById("connection");
const show = ({ connected, flow }) => (status.textContent = connected ? `Connected by ${flow}.` : "Nothing connected yet.");
const failed = (error) => (status.textContent = `That did not work: ${error.code}`);
const backend = { api, getToken, flow: "popup", client: clients };

const button = document.getElementById("connect");
function run(work) {
  button.disabled = true;
  work.then(show, failed).finally(() => (button.disabled = false));
}
button.onclick = () => run(connect(backend));
run(resume(backend).then((finished) => finished ?? call(backend, "GET /connect/connection")));
