//! After a rotation of the sealing key, each write of a row reseals it.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::LeasedUser;
use crate::seal::SealError;
use crate::secret::SecretError;

/// How long earlier sealing keys may take to come before a commit.
const RESEAL: Duration = Duration::from_secs(1);

impl LeasedUser<'_> {
    /// Seals with the current key what earlier keys sealed. A value that does not open at once stays as it is: nothing may keep
    /// from the table what Human API has just given.
    pub(super) async fn reseal(&mut self) {
        if timeout(RESEAL, self.reseal_all()).await.is_err() {
            warn!("an earlier sealing key is slow to come; tokens stay sealed with it for now");
        }
    }

    async fn reseal_all(&mut self) {
        let (key, sealer, user) = (&self.key, &self.service.sealer, self.user.key());
        let mut gone = None;
        for (kind, value) in self.lease.row.record.sealed_mut() {
            if key.sealed(value) || gone.as_ref() == Some(&value.version) {
                continue;
            }
            match sealer.open(&user, kind, value).await {
                Ok(text) => match key.seal(&user, kind, &text) {
                    Ok(sealed) => *value = sealed,
                    Err(error) => warn!(error = %error, "a token was not sealed again"),
                },
                Err(error) => {
                    warn!(error = %error, "a token was not sealed again");
                    // a value that will never open does not keep the rest from the current key
                    match error {
                        SealError::Corrupt(_) => {}
                        SealError::Key(SecretError::MissingVersion { version, .. }) => gone = Some(version),
                        _ => return,
                    }
                }
            }
        }
    }
}
