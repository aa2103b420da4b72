// For an app that opens both generations, for example while its users move from the popup to Connect:
// `connect({ ..., client: clients })`. Both scripts define `window.HumanConnect`, so each is loaded on demand and then removed there.

const SCRIPTS = { popup: "https://connect.humanapi.co/connect.js", connect: "humanapi-connect-client.js" };
const loaded = {};

/** @param {"connect" | "popup"} flow */
export const clients = (flow) => loaded[flow] ?? (loaded[flow] = load(flow));

async function load(flow) {
  const src = SCRIPTS[flow];
  const script = Object.assign(document.createElement("script"), { src });
  await new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => {
      delete loaded[flow]; // the next click loads it again
      reject(new Error(`${src} did not load.`));
    };
    document.head.append(script);
  });
  const client = window.HumanConnect;
  delete window.HumanConnect;
  return client;
}
