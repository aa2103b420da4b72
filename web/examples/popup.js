// The popup generation without human-connect-backend.js, as Human API's guide has it: connect.js and jQuery's $.post.
import { api, getToken } from "./your-app.js";

const status = document.getElementById("connection");
const button = document.getElementById("connect");

function failed(answer) {
  const { detail, message } = answer.responseJSON ?? {}; // the backend's own words, or API Gateway's
  status.textContent = `That did not work: ${detail ?? message ?? "no answer."}`;
  button.disabled = false;
}

/** The popup's own word. */
const refused = (error) => failed({ responseJSON: { message: error.message ?? error } });

/** Held up, or out of order for a while: the same again, when Retry-After says. */
function finish(url, sessionTokenObject, tries = 5) {
  // a form and no Authorization header: the ticket in the URL is the proof
  $.post(url, sessionTokenObject).then(
    () => location.reload(),
    (answer) => {
      const passing = [0, 409, 429, 503, 504].includes(answer.status) && answer.responseJSON?.code !== "reconnect_required";
      if (!passing || !tries) return failed(answer);
      const seconds = Number(answer.getResponseHeader("Retry-After")) || 2;
      setTimeout(finish, seconds * 1000, url, sessionTokenObject, tries - 1);
    },
  );
}

button.onclick = async () => {
  button.disabled = true;
  const token = await getToken(false);
  const session = $.ajax(`${api}/connect/session`, {
    method: "POST",
    contentType: "application/json",
    headers: { Authorization: `Bearer ${token}` },
    data: JSON.stringify({ flow: "popup" }),
  });
  session.then(open, failed);
};

function open({ flow, clientUserId, clientId, publicToken, finishUrl }) {
  // a user who must reconnect is answered with the Connect widget's flow: that is for page.js
  if (flow !== "popup") return location.assign("page.html");
  HumanConnect.open({
    clientUserId, // percent-encoded already
    clientId,
    publicToken, // "" for a new user
    finish: (error, sessionTokenObject) => {
      if (error) return refused(error);
      finish(finishUrl, sessionTokenObject);
    },
    close: () => (button.disabled = false),
    error: refused, // "User Already Exists": the publicToken is lost, and page.js is the way back
  });
}
