// The widget that the app opens.

const HINTS = {
  connect: "The widget since 2019, from npm’s humanapi-connect-client. The page posts its result.",
  popup: "The widget from 2013 to 2018: connect.js. The backend exchanges its session token once.",
  phone: "The popup in an app, by Human API’s SDK. The SDK posts the session to finishUrl. A ticket in the URL authenticates it.",
};

export function chosenWay() {
  return document.querySelector("input[name=way]:checked").value;
}

/** @param {(way: string) => void} onChoice */
export function wayPicker(onChoice) {
  const show = () => {
    document.getElementById("way-hint").textContent = HINTS[chosenWay()];
    onChoice(chosenWay());
  };
  for (const input of document.querySelectorAll("input[name=way]")) input.onchange = show;
  show();
}
