//! The exchange of a popup's session.

use super::fetch::unauthorized_if_forbidden;
use super::{Error, LeasedUser, Popup};
use crate::human_api::{Cause, ExchangeRequest, Failure};

impl LeasedUser<'_> {
    /// Exchanges what the popup handed to the page. `Ok`: tokens are in the record. They come from the exchange or, if its response
    /// was lost and the session is spent, from what Human API gives for a proven humanId.
    pub async fn exchange(&mut self, popup: &Popup<'_>) -> Result<(), Error> {
        let hash = popup.session.hash();
        match self.send(&ExchangeRequest { human_id: popup.human_id, session_token: popup.session }).await {
            Ok(response) => {
                self.verify(&response, popup.human_id)?;
                self.set_exchanged_tokens(response, hash, popup.ticket.clone())
            }
            Err(Error::HumanApi(Failure { cause: Cause::Refused(status), maybe_performed, .. }))
                if status.as_u16() != 403 =>
            {
                if !maybe_performed {
                    return Err(Error::SessionRejected);
                }
                // an earlier attempt may have been performed: the session counts as spent
                self.response_at_risk = true;
                self.fetch_without_session(Some((&hash, popup.ticket.as_ref()))).await?;
                let is_finished = self.row().has_finished(&hash, self.now());
                if is_finished { Ok(()) } else { Err(Error::ReconnectRequired) }
            }
            Err(Error::HumanApi(failure)) => Err(unauthorized_if_forbidden(failure).into()),
            Err(error) => Err(error),
        }
    }
}
