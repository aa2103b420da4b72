import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { ConnectButton } from "../../../web/examples/ConnectButton.jsx";
import { api, getToken } from "./your-app.js";

function App() {
  const [user, setUser] = useState("one");
  return (
    <>
      <button onClick={() => setUser("another")}>Sign in as somebody else</button>
      <ConnectButton api={api} getToken={getToken} user={user} />
    </>
  );
}

createRoot(document.getElementById("app")).render(<StrictMode><App /></StrictMode>);
