// Loads Human API's client of the generation that the backend asks for, for example while your users move from the popup to Connect:
// `createHumanConnect({ ..., loadClient: clients() })`.
//
// The popup's connect.js is an older script of Human API. This project cannot know if Human API still publishes it. If it does not load,
// use Connect: leave `flow` out, and set the backend's `DefaultFlow` to `connect`. A known popup user can use the Connect widget.

const SCRIPTS = { popup: "https://connect.humanapi.co/connect.js", connect: "humanapi-connect-client.js" };

/** @param {{connect?: string, popup?: string}} [scripts] other addresses of the scripts */
export function clients(scripts) {
  const loaded = {};
  const load = async (flow) => {
    const src = { ...SCRIPTS, ...scripts }[flow];
    const script = Object.assign(document.createElement("script"), { src });
    await new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => {
        delete loaded[flow]; // the next click loads it again
        reject(new Error(`${src} did not load.`));
      };
      document.head.append(script);
    });
    // Both scripts define `window.HumanConnect`, so each is removed there after it has loaded.
    const client = window.HumanConnect;
    delete window.HumanConnect;
    return client;
  };
  return (flow) => loaded[flow] ?? (loaded[flow] = load(flow));
}
