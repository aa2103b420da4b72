import { createHumanConnect } from "human-connect";
import { api, getToken, loadClient } from "your-app";

const status = document.getElementById("connection");
const button = document.getElementById("connect");
const backend = createHumanConnect({ api, getToken, loadClient });
const show = ({ connected }) => (status.textContent = connected ? "Connected." : "Nothing connected yet.");
const failed = (error) => (status.textContent = `That did not work: ${error.message}`);

function run(work) {
  button.disabled = true;
  work.then(show, failed).finally(() => (button.disabled = false));
}

button.onclick = () => run(backend.connect());
run(backend.resume().then((finished) => finished ?? backend.getConnection()));
