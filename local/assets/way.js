// The widget's generation.

const HINTS = {
  connect: "Since 2019: npm humanapi-connect-client in an iframe. The page posts the widget's result.",
  popup: "2013 to 2018: connect.js over the whole page. Its session token is exchanged once.",
  phone: "The popup through a mobile SDK: it posts to finishUrl without a header; its ticket authenticates the request.",
};

export function chosenWay() {
  return document.querySelector("input[name=way]:checked").value;
}

export function wayPicker() {
  const show = () => {
    document.getElementById("way-hint").textContent = HINTS[chosenWay()];
  };
  for (const input of document.querySelectorAll("input[name=way]")) input.onchange = show;
  show();
}
