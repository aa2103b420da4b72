import HumanConnect from "humanapi-connect-client";
import { createRoot } from "react-dom/client";
import { ConnectButton } from "../../../web/examples/ConnectButton.jsx";
import { api, getToken } from "./your-app.js";

const backend = { api, getToken };
createRoot(document.getElementById("app")).render(<ConnectButton backend={backend} client={HumanConnect} />);
