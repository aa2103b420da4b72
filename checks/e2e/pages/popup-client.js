import { call, connect, resume } from "./human-connect-backend.js";
import { api, getToken } from "./your-app.js";

const status = document.getElementById("connection");
const show = ({ connected, flow }) => (status.textContent = connected ? `Connected by ${flow}.` : "Nothing connected yet.");
const failed = (error) => (status.textContent = `That did not work: ${error.code}`);
const backend = { api, getToken, flow: "popup" };

document.getElementById("connect").onclick = () => connect(backend).then(show, failed);
resume(backend).then((finished) => finished ?? call(backend, "GET /connect/connection")).then(show, failed);
