// The popup generation without human-connect-backend.js, as Human API's guide has it: connect.js and jQuery's $.post.
import { api, getToken } from "./your-app.js";

const status = document.getElementById("connection");
const button = document.getElementById("connect");
const UNFINISHED = "unfinished";

async function ask(method, path, body, refresh = false) {
  const url = api.replace(/\/+$/, "") + path;
  const headers = { Authorization: `Bearer ${await getToken(refresh)}` };
  try {
    return await $.ajax(url, { method, headers, contentType: "application/json", data: body && JSON.stringify(body) });
  } catch (answer) {
    // The token may have expired. API Gateway's 401 may lack CORS headers, and the browser then reports status 0.
    if ([0, 401].includes(answer.status) && !refresh) return ask(method, path, body, true);
    const { detail, message } = answer.responseJSON ?? {}; // the backend's own words, or API Gateway's
    throw new Error(detail ?? message ?? "no answer.");
  }
}

function failed(error) {
  status.textContent = `That did not work: ${error.message ?? error}`;
  button.disabled = false;
}

/** The ticket in the URL is the proof: a form, and no Authorization header. Kept until it is answered, in case of a reload. */
function finish(url, sessionTokenObject, tries = 5) {
  sessionStorage[UNFINISHED] = JSON.stringify([url, sessionTokenObject]);
  $.post(url, sessionTokenObject).then(
    () => {
      delete sessionStorage[UNFINISHED];
      location.reload();
    },
    (answer) => {
      const { code, detail, message } = answer.responseJSON ?? {};
      // held up, or out of order for a while: the same again, when Retry-After says
      if (tries && ([0, 429, 500, 503, 504].includes(answer.status) || code === "finish_in_progress")) {
        const seconds = Number(answer.getResponseHeader("Retry-After")) || 2;
        setTimeout(finish, seconds * 1000, url, sessionTokenObject, tries - 1);
        return;
      }
      if (answer.status < 500) delete sessionStorage[UNFINISHED]; // a verdict
      failed(new Error(detail ?? message ?? "no answer."));
    },
  );
}

function open({ flow, clientUserId, clientId, publicToken, finishUrl }) {
  // a user who must reconnect is answered with the Connect widget's flow: that is for page.js
  if (flow !== "popup") return location.assign("page.html");
  let refused;
  HumanConnect.open({
    clientUserId, // percent-encoded already
    clientId,
    publicToken, // "" for a new user
    finish: (error, sessionTokenObject) => (error ? failed(error) : finish(finishUrl, sessionTokenObject)),
    error: (error) => (refused = error), // the popup shows it
    close: () => {
      // Human API knows the user, but no session of it came here: the Connect widget lets the user in
      if (/already exists/i.test(refused?.message ?? refused)) location.assign("page.html");
      else if (refused) failed(refused);
      else button.disabled = false;
    },
  });
}

button.onclick = () => {
  button.disabled = true;
  ask("POST", "/connect/session", { flow: "popup" }).then(open).catch(failed);
};

const unfinished = sessionStorage[UNFINISHED];
if (unfinished) {
  finish(...JSON.parse(unfinished));
} else {
  const show = ({ connected }) => {
    status.textContent = connected ? "Connected." : "Nothing connected yet.";
    button.disabled = false;
  };
  ask("GET", "/connect/connection").then(show).catch(failed);
}
