//! `reseal` walks through the table and seals with the current key what older keys sealed. Calls on other segments can run beside it.

use std::collections::BTreeMap;

use serde_json::{Value, json, value::RawValue};
use shared::invocation::Invocation;
use shared::lambda::Call;
use shared::store::{LeaseRequest, Request, Row, TableRow};
use shared::tokens::Error;
use tracing::warn;

use crate::{Counts, Maintenance, VISITS_UNTIL, Visit};

/// A part of the table, as DynamoDB's parallel Scan cuts it.
pub(crate) struct Reseal {
    /// The key after which the walk goes on.
    after: Option<String>,
    segment: u32,
    segments: u32,
}

impl Reseal {
    pub(crate) fn read(fields: &BTreeMap<String, &RawValue>) -> Result<Self, String> {
        let number = |name: &str, default: u32| match fields.get(name) {
            None => Ok(default),
            Some(text) => serde_json::from_str(text.get()).map_err(|_| format!("{name} must be a whole number")),
        };
        let after = match fields.get("after").map(|text| serde_json::from_str::<Option<String>>(text.get())) {
            None => None,
            Some(Ok(after)) if after.as_ref().is_none_or(|cursor| !cursor.is_empty()) => after,
            Some(_) => return Err("after must be the `next` of an earlier call".to_owned()),
        };
        let (segment, segments) = (number("segment", 0)?, number("segments", 1)?);
        if segments == 0 || segments > 1_000_000 {
            return Err("segments must be 1 to 1000000".to_owned());
        }
        if segment >= segments {
            return Err("segment must be less than segments".to_owned());
        }
        Ok(Self { after, segment, segments })
    }
}

impl Maintenance {
    pub(crate) async fn reseal(&self, reseal: Reseal, call: &Call, counts: &mut Counts) -> Value {
        let run = &call.invocation;
        let (mut unchanged, mut failed, mut next) = (0u64, 0u64, reseal.after);
        'walk: while run.elapsed() < VISITS_UNTIL {
            let part = run.child();
            let page = async {
                // under an older version, rows would stay that need it after the operator has removed it
                self.tokens.sealer.refresh().await?;
                Ok(self.tokens.store.scan(next.as_deref(), reseal.segment, reseal.segments, &part).await?)
            };
            let Ok(page) = self.attempt(&part, page, counts).await else {
                counts.fault = true;
                failed += 1;
                break;
            };
            for TableRow { key, row } in page.rows {
                if run.elapsed() >= VISITS_UNTIL {
                    break 'walk;
                }
                let part = run.child();
                let work = async { self.reseal_row(row?, &part).await };
                match self.visit(&part, work, counts).await {
                    Visit::Done => counts.resealed += 1,
                    Visit::Nothing => unchanged += 1,
                    Visit::Left | Visit::Failed => failed += 1,
                }
                next = Some(key);
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        json!({
            "resealed": counts.resealed,
            "unchanged": unchanged,
            "failed": failed,
            "next": next,
        })
    }

    /// Takes the lease of a row that an older key has sealed. The commit seals everything with the current key.
    async fn reseal_row(&self, row: Row, part: &Invocation) -> Result<Visit, Error> {
        part.set_user(&row.user);
        let key = self.tokens.sealer.current().await?;
        if row.is_sealed_with(key.version()) {
            return Ok(Visit::Nothing);
        }
        let request = LeaseRequest::of_row(&row, Request::Nothing);
        let no_answer = |_: &Row| None;
        let done = self.tokens.exclusive(request, no_answer, |_| Box::pin(async { Ok(()) }), part);
        let ((), after) = done.await?;
        if after.is_sealed_with(key.version()) {
            return Ok(Visit::Done);
        }
        let user = self.tokens.sealer.user_hash(&row.user);
        warn!(user, "something in a row does not open, and stays under an older key");
        Ok(Visit::Left)
    }
}
