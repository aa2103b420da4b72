// The popup generation without human-connect-backend.js, as Human API's guide has it: connect.js and jQuery's $.post.
import { api, getToken } from "./your-app.js";

document.getElementById("connect").onclick = async () => {
  const session = await $.ajax(`${api}/connect/session`, {
    method: "POST",
    contentType: "application/json",
    headers: { Authorization: `Bearer ${await getToken()}` },
    data: JSON.stringify({ flow: "popup" }),
  });
  HumanConnect.open({
    clientUserId: session.clientUserId, // percent-encoded already
    clientId: session.clientId,
    publicToken: session.publicToken, // "" for a new user
    finish: (error, sessionTokenObject) => {
      if (error) return;
      // a form and no Authorization header: the ticket in the URL is the proof
      $.post(session.finishUrl, sessionTokenObject).done(() => location.reload());
    },
  });
};
