// What your app knows already: where the backend is, and the JWT of the user who is signed in.

/** The stack's `ApiUrl`, or your custom domain. */
export const api = "https://abc123.execute-api.us-east-1.amazonaws.com";

/** Asks your identity provider's library. If `refresh` is true, the last token may have expired: bring a new one. */
export async function getToken(refresh) {
  const session = await window.yourIdentityProvider.session({ forceRefresh: refresh });
  return session.idToken;
}
