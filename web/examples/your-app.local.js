// Your app against the local program (`cargo run -p local`). Use this file instead of `your-app.js` while you develop.
// The local program accepts pages on the usual development servers. For another origin, start it with `--origin`.

import { clients } from "./clients.js";

export const api = "http://127.0.0.1:3000";
/** The stand-in for Human API has the next port. */
const HUMAN_API = "http://127.0.0.1:3001";

/** Signs in a made-up user. Your identity provider does this in production. */
export async function getToken() {
  const who = { user: "ada", email: "ada@example.test" };
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(who) };
  const response = await fetch(`${api}/local/sign-in`, request);
  return (await response.json()).token;
}

const load = clients({
  connect: `${api}/assets/vendor/humanapi-connect-client-2.4.1.js`,
  popup: `${HUMAN_API}/connect.js`,
});

/** Opens the widgets of the stand-in. The Connect client takes their address as `baseURL`. */
export async function loadClient(flow) {
  const client = await load(flow);
  return { open: (options) => client.open({ ...options, baseURL: HUMAN_API }) };
}
