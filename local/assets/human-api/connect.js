// Behaves like Human API's connect.js, the script of the popup: the same global, options and messages. This project cannot know if
// Human API still publishes its own. `finish` hides the frame and leaves it in the page, as the original does until the page is refreshed.

(function () {
  "use strict";
  if (window.HumanConnect) return;

  const origin = new URL(document.currentScript.src).origin;
  let frame = null;
  let spinner = null;
  let options = {};
  let overflow = "";

  function open(chosen) {
    options = chosen;
    frame?.remove(); // an earlier `finish` has left it in the page
    overflow = document.body.style.overflow;
    frame = buildFrame(address(chosen));
    spinner = buildSpinner();
    document.body.append(frame, spinner);
    document.body.style.overflow = "hidden";
  }

  /** The caller has encoded `clientUserId` already. */
  function address({ clientUserId, clientId, publicToken, mode, language, __finishUrl, __closeUrl }) {
    let url = `${origin}/popup?clientUserId=${clientUserId}&clientId=${clientId}`;
    if (publicToken) url += `&publicToken=${publicToken}`;
    if (mode) url += `&mode=${mode}`;
    url += `&language=${language || "en"}`;
    if (__finishUrl) url += `&finishUrl=${__finishUrl}`;
    if (__closeUrl) url += `&closeUrl=${__closeUrl}`;
    return url;
  }

  function buildFrame(src) {
    const node = document.createElement("iframe");
    node.id = "human-connect";
    node.title = "Human Connect";
    node.src = src;
    node.onload = () => node.contentWindow.focus();
    Object.assign(node.style, {
      position: "fixed", inset: "0", width: "100%", height: "100%", margin: "0", padding: "0", border: "0",
      zIndex: "99999", backgroundColor: "#fff",
    });
    return node;
  }

  function buildSpinner() {
    const node = document.createElement("div");
    Object.assign(node.style, {
      position: "fixed", top: "50%", left: "50%", width: "30px", height: "30px", margin: "-15px 0 0 -15px",
      boxSizing: "border-box", border: "3px solid #c9d6e6", borderTopColor: "#1f5fae", borderRadius: "50%", zIndex: "99999",
    });
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) spin(node);
    return node;
  }

  function spin(node) {
    node.animate([{ transform: "rotate(0)" }, { transform: "rotate(360deg)" }], { duration: 900, iterations: Infinity });
  }

  function uncover() {
    spinner?.remove();
    document.body.style.overflow = overflow;
  }

  const listeners = {
    "hapi-connect-open": () => spinner?.remove(),
    "hapi-connect-finish": ({ token }) => {
      frame.style.display = "none";
      uncover();
      options.finish?.(null, token);
    },
    "hapi-connect-close": () => {
      frame.remove();
      uncover();
      options.close?.();
    },
    "hapi-connect-error": ({ error }) => {
      spinner?.remove();
      options.error?.(error);
    },
  };

  window.addEventListener("message", (event) => {
    if (!frame || event.source !== frame.contentWindow || typeof event.data !== "string") return;
    let message;
    try {
      message = JSON.parse(event.data);
    } catch {
      return; // another sender's message
    }
    listeners[message.type]?.(message);
  });

  window.HumanConnect = { open };
})();
