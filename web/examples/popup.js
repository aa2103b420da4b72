// The popup generation without human-connect.js, as in Human API's guide: connect.js and jQuery's $.post.
// This project cannot know if Human API still publishes connect.js. If popup.html cannot load it, use Connect: page.js.
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
    const { detail, message } = answer.responseJSON ?? {}; // the backend has `detail`, API Gateway has `message`
    throw new Error(detail ?? message ?? "no answer.");
  }
}

function failed(error) {
  status.textContent = `That did not work: ${error.message ?? error}`;
  button.disabled = false;
}

/** Posts a form without an Authorization header, because the URL contains a ticket. A reload keeps the session until a final answer. */
function finish(url, sessionTokenObject, retries = 5) {
  sessionStorage[UNFINISHED] = JSON.stringify([url, sessionTokenObject]);
  $.post(url, sessionTokenObject).then(
    () => {
      delete sessionStorage[UNFINISHED];
      location.reload();
    },
    (answer) => {
      const { code, detail, message } = answer.responseJSON ?? {};
      // another call has the lease, or the error is transient: send the same again after Retry-After
      if (retries && ([0, 429, 500, 503, 504].includes(answer.status) || code === "finish_in_progress")) {
        const seconds = Number(answer.getResponseHeader("Retry-After")) || 2;
        setTimeout(finish, seconds * 1000, url, sessionTokenObject, retries - 1);
        return;
      }
      if (answer.status < 500) delete sessionStorage[UNFINISHED]; // a final answer
      failed(new Error(detail ?? message ?? "no answer."));
    },
  );
}

function open({ flow, clientUserId, clientId, publicToken, finishUrl }) {
  // a user who must reconnect gets the flow of the Connect widget, which page.js opens
  if (flow !== "popup") return location.assign("page.html");
  let refused;
  HumanConnect.open({
    clientUserId, // already percent-encoded
    clientId,
    publicToken, // "" for a new user
    finish: (error, sessionTokenObject) => (error ? failed(error) : finish(finishUrl, sessionTokenObject)),
    error: (error) => (refused = error), // the popup shows the error
    close: () => {
      // Human API knows the user, but the user's session was lost: the Connect widget accepts a known user
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
