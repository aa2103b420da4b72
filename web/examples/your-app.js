// Your app provides the backend's address, the JWT of the signed-in user, and Human API's client.

/** The stack's `ApiUrl`, or your custom domain. */
export const api = "https://abc123.execute-api.us-east-1.amazonaws.com";

/** Gets the token from your identity provider's library. If `refresh` is true, the last token may have expired: return a new one. */
export async function getToken(refresh) {
  const session = await window.yourIdentityProvider.session({ forceRefresh: refresh });
  return session.idToken;
}

/** Human API's client, which the page loads with a script tag. `clients.js` loads the clients of both generations. */
export const loadClient = () => window.HumanConnect;
