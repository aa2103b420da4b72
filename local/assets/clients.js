// Human API's own clients, one of each generation, as the browser client's `loadClient` returns them.

const CONNECT = "/assets/vendor/humanapi-connect-client-2.4.1.js";
const loaded = new Map();

/**
 * @param {string} origin the origin of the stand-in's widgets
 * @returns {(flow: string) => Promise<{open: (options: object) => any}>}
 */
export function clients(origin) {
  return async (flow) => {
    if (flow === "popup") return load(`${origin}/connect.js`);
    const client = await load(CONNECT);
    // in production, the client knows its own address
    return { open: (options) => client.open({ ...options, baseURL: origin }) };
  };
}

function load(url) {
  if (!loaded.has(url)) loaded.set(url, run(url));
  return loaded.get(url);
}

/** Both generations' scripts define `HumanConnect`, so each is removed from the window after it has loaded. */
function run(url) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => {
      resolve(window.HumanConnect);
      delete window.HumanConnect;
    };
    script.onerror = () => {
      loaded.delete(url); // a failure is not cached
      script.remove();
      reject(new Error(`The widget’s script did not load: ${url}`));
    };
    document.head.append(script);
  });
}
