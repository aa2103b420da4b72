// Opens Human API's widget, either generation, and resolves with how the user left it.

const CLIENT = "/assets/vendor/humanapi-connect-client-2.4.1.js";

/**
 * @typedef {object} Outcome what to post to the backend, or why there is nothing to post
 * @property {object} [callback] a popup's sessionTokenObject, or a Connect `onClose` response
 * @property {{code: string, message: string}} [error] the popup could not open
 *
 * @param {object} session the answer of POST /connect/session; its `flow` decides
 * @param {string} origin where the widget lives
 * @param {HTMLElement} page everything else, out of reach while the widget is open
 * @returns {Promise<Outcome>}
 */
export async function openWidget(session, origin, page) {
  const open = session.flow === "popup" ? openPopup : openConnect;
  const library = await scriptGlobal(session.flow === "popup" ? `${origin}/connect.js` : CLIENT);
  page.inert = true;
  try {
    return await open(library, session, origin);
  } finally {
    page.inert = false;
  }
}

function openConnect(library, session, origin) {
  return new Promise((resolve) => {
    library.open({
      token: session.token,
      baseURL: origin, // only here: in production the client knows its own address
      onClose: (response) => resolve({ callback: response }),
    });
  });
}

function openPopup(library, session) {
  return new Promise((resolve) => {
    let failure;
    library.open({
      clientUserId: session.clientUserId, // percent-encoded already
      clientId: session.clientId,
      publicToken: session.publicToken,
      finish: (error, sessionTokenObject) => resolve(error ? { error } : { callback: sessionTokenObject }),
      close: () => resolve({ error: failure }),
      error: (error) => { failure = error; }, // the popup shows it; the user then closes
    });
  });
}

const scripts = new Map();

/** Both generations' scripts define `HumanConnect`, so each is taken off the window as soon as it is there. */
function scriptGlobal(url) {
  if (!scripts.has(url)) scripts.set(url, load(url));
  return scripts.get(url);
}

function load(url) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => {
      resolve(window.HumanConnect);
      delete window.HumanConnect;
    };
    script.onerror = () => {
      scripts.delete(url); // a failure is not kept
      script.remove();
      reject(new Error(`The widget’s script did not load: ${url}`));
    };
    document.head.append(script);
  });
}
