// Human API's own clients, one of each generation, with the interface that human-connect-backend.js expects.

const CONNECT = "/assets/vendor/humanapi-connect-client-2.4.1.js";
/** Ids of the elements that the two clients add to the page. */
const FRAMES = ["human-api", "human-api-connect-modal-overlay", "human-connect"];

/**
 * @param {string} origin the origin of the stand-in's widgets
 * @param {HTMLElement} page everything except the widget, inert while a widget is open
 * @returns {(flow: string) => Promise<{open: (options: object) => void}>}
 */
export function clients(origin, page) {
  return async (flow) => {
    if (flow === "popup") return guarded(await load(`${origin}/connect.js`), page);
    // in production, the client knows its own address
    return guarded(await load(CONNECT), page, { baseURL: origin });
  };
}

function guarded(client, page, more) {
  const leave = document.getElementById("leave");
  const enter = (within) => {
    page.inert = within;
    leave.hidden = !within;
  };
  return {
    open(options) {
      const opener = document.activeElement;
      const left = (name) => (...what) => {
        enter(false);
        opener.focus(); // a hidden frame would keep the focus
        options[name]?.(...what);
      };
      // a loaded widget has its own close button, but a widget that did not load must not block the page
      leave.onclick = () => {
        for (const id of FRAMES) document.getElementById(id)?.remove();
        left(options.close ? "close" : "onClose")();
      };
      enter(true);
      try {
        client.open({ ...options, ...more, onClose: left("onClose"), finish: left("finish"), close: left("close") });
      } catch (error) {
        enter(false);
        throw error;
      }
    },
  };
}

const loaded = new Map();

/** Both generations' scripts define `HumanConnect`, so each is removed from the window after it has loaded. */
function load(url) {
  if (!loaded.has(url)) loaded.set(url, run(url));
  return loaded.get(url);
}

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
