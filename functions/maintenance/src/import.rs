//! `import` brings connections of users into the table. A Connect user is asked for at Human API. A popup user comes with tokens.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json, value::RawValue};
use shared::clock::parse_rfc3339;
use shared::http::{Code, Problem, body::Fields};
use shared::human_api::{Cause, Failure};
use shared::identity::UserId;
use shared::invocation::Invocation;
use shared::lambda::Call;
use shared::store::{LeaseRequest, Request, Row};
use shared::token::ImportHash;
use shared::tokens::{Error, Imported, LeasedUser, TokenService};

use crate::{Counts, Maintenance, VISITS_UNTIL};

/// Most users of a call.
const MAX_USERS: usize = 500;

pub(crate) struct Import {
    users: Vec<Entry>,
    replaces: bool,
    is_dry_run: bool,
}

/// One of the users, as the payload has it.
pub(crate) struct Entry {
    pub(crate) user: Result<User, Problem>,
    /// Another entry of the call names the same humanId for another user. With `replace`, also: it has other tokens for the same user.
    is_ambiguous: bool,
}

pub(crate) struct User {
    id: UserId,
    /// The popup connection; `None` for a Connect user.
    imported: Option<Imported>,
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Created,
    Unchanged,
    Replaced,
    NotConnected,
    Conflict,
    Unknown,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Unchanged => "unchanged",
            Self::Replaced => "replaced",
            Self::NotConnected => "not_connected",
            Self::Conflict => "conflict",
            Self::Unknown => "unknown",
        }
    }
}

impl Import {
    /// Reads the payload. A user that cannot be read fails alone.
    pub(crate) fn read(fields: &BTreeMap<String, &RawValue>) -> Result<Self, String> {
        let users: Vec<&RawValue> = fields
            .get("users")
            .and_then(|users| serde_json::from_str(users.get()).ok())
            .ok_or("users must be a list of users")?;
        if users.len() > MAX_USERS {
            return Err(format!("users has more than {MAX_USERS} users"));
        }
        let replaces = match fields.get("onConflict").map(|text| serde_json::from_str(text.get())) {
            None | Some(Ok(None | Some("keep"))) => false,
            Some(Ok(Some("replace"))) => true,
            Some(_) => return Err("onConflict must be keep or replace".to_owned()),
        };
        let is_dry_run = fields.get("dryRun").map_or(Ok(None), |flag| serde_json::from_str::<Option<bool>>(flag.get()));
        let is_dry_run = is_dry_run.map_err(|_| "dryRun must be true or false")?;
        let mut users = Entry::read_all(&users);
        if replaces {
            Entry::mark_contradictions(&mut users);
        }
        Ok(Self { users, replaces, is_dry_run: is_dry_run.unwrap_or_default() })
    }
}

impl Entry {
    pub(crate) fn read_all(users: &[&RawValue]) -> Vec<Self> {
        let objects: Vec<_> = users.iter().map(|user| Fields::object(user.get().as_bytes())).collect();
        let human_id = |fields: &Fields| fields.get::<String>("humanId");
        let mut named: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
        for fields in objects.iter().flatten() {
            if let Some(human_id) = human_id(fields) {
                named.entry(human_id).or_default().insert(fields.get("clientUserId"));
            }
        }
        let entry = |fields: Result<Fields, Problem>| {
            let human_id = fields.as_ref().ok().and_then(human_id);
            let users = human_id.and_then(|human_id| named.get(&human_id)).map_or(0, BTreeSet::len);
            Self { user: fields.and_then(|fields| User::read(&fields)), is_ambiguous: users > 1 }
        };
        objects.into_iter().map(entry).collect()
    }

    /// Marks users with two connections. With `replace`, each would replace the other, and again with each run.
    fn mark_contradictions(entries: &mut [Self]) {
        let hash = |user: &User| user.imported.as_ref().map(|imported| imported.hash());
        let mut connections: HashMap<String, Vec<Option<ImportHash>>> = HashMap::new();
        for user in entries.iter().flat_map(|entry| &entry.user) {
            let hashes = connections.entry(user.id.as_str().to_owned()).or_default();
            if !hashes.contains(&hash(user)) {
                hashes.push(hash(user));
            }
        }
        for entry in entries {
            let hashes = entry.user.as_ref().ok().and_then(|user| connections.get(user.id.as_str()));
            entry.is_ambiguous |= hashes.is_some_and(|hashes| hashes.len() > 1);
        }
    }
}

impl User {
    fn read(fields: &Fields) -> Result<Self, Problem> {
        let id = fields.user_id("clientUserId")?;
        let human_id = fields.optional_text("humanId")?;
        let access_token = fields.optional_text("accessToken")?;
        let public_token = fields.optional_text("publicToken")?;
        let connected_at =
            fields.parsed("connectedAt", "must be a time such as 2026-01-02T03:04:05Z", parse_rfc3339)?;
        let imported = match (human_id, access_token) {
            (Some(human_id), Some(access_token)) => Some(Imported {
                human_id,
                access_token: access_token.into(),
                public_token: public_token.map(Into::into),
                connected_at,
            }),
            (None, None) if public_token.is_none() && connected_at.is_none() => None,
            _ => return Err(Problem::invalid_request("a user with tokens has humanId and accessToken")),
        };
        Ok(Self { id, imported })
    }
}

impl Maintenance {
    pub(crate) async fn import(&self, import: Import, call: &Call, counts: &mut Counts) -> Value {
        let run = &call.invocation;
        let (mut results, mut next) = (Vec::new(), None);
        for (index, entry) in import.users.iter().enumerate() {
            let part = run.child();
            let outcome = match &entry.user {
                _ if run.elapsed() >= VISITS_UNTIL => {
                    next = Some(index);
                    break;
                }
                Err(_) => Err(Code::InvalidRequest),
                Ok(_) if entry.is_ambiguous => Ok(Outcome::Conflict),
                Ok(user) => {
                    part.set_user(&user.id);
                    match self.attempt(&part, self.import_user(user, &import, &part), counts).await {
                        Err(problem) if is_rate_limit(&problem) => {
                            next = Some(index);
                            break;
                        }
                        outcome => outcome.map_err(|problem| problem.code()),
                    }
                }
            };
            let is_stored = matches!(outcome, Ok(Outcome::Created | Outcome::Replaced)) && !import.is_dry_run;
            counts.imported += u64::from(is_stored);
            results.push(match outcome {
                Ok(outcome) => json!({"index": index, "result": outcome.name()}),
                Err(code) => json!({"index": index, "result": "failed", "code": code.name()}),
            });
        }
        json!({"results": results, "next": next})
    }

    async fn import_user(&self, user: &User, import: &Import, part: &Invocation) -> Result<Outcome, Error> {
        let tokens = &self.tokens;
        let row = tokens.store.read(&user.id.key(), part).await?;
        let decided = decide(tokens, user, row.as_ref(), import.replaces).await?;
        match (decided, &user.imported) {
            (Outcome::Created | Outcome::Replaced, None) if import.is_dry_run => return Ok(Outcome::Unknown),
            (Outcome::Created | Outcome::Replaced, _) if !import.is_dry_run => {}
            _ => return Ok(decided),
        }
        let request = if user.imported.is_some() { Request::Nothing } else { Request::Access };
        let request = match &row {
            Some(row) => LeaseRequest::of_row(row, request),
            None => LeaseRequest::of(&user.id, request),
        };
        let no_answer = |_: &Row| None;
        let done = tokens.exclusive(
            request,
            no_answer,
            |leased| Box::pin(import_leased(tokens, user, import.replaces, leased)),
            part,
        );
        Ok(done.await?.0)
    }
}

/// What an import would do with this row.
async fn decide(tokens: &TokenService, user: &User, row: Option<&Row>, replaces: bool) -> Result<Outcome, Error> {
    let Some(row) = row else { return Ok(Outcome::Created) };
    let is_connected = row.record.connected_at.is_some();
    match &user.imported {
        None if is_connected => Ok(Outcome::Unchanged),
        None => Ok(Outcome::Created),
        Some(imported) if tokens.has_imported(&user.id, &row.record, imported).await? => Ok(Outcome::Unchanged),
        Some(_) if !is_connected => Ok(Outcome::Created),
        Some(_) if replaces => Ok(Outcome::Replaced),
        Some(_) => Ok(Outcome::Conflict),
    }
}

async fn import_leased(
    tokens: &TokenService,
    user: &User,
    replaces: bool,
    leased: &mut LeasedUser<'_>,
) -> Result<Outcome, Error> {
    // another call may have changed the row since it was read
    let decided = decide(tokens, user, Some(leased.row()), replaces).await?;
    if !matches!(decided, Outcome::Created | Outcome::Replaced) {
        return Ok(decided);
    }
    match &user.imported {
        Some(imported) => leased.import(imported)?,
        None if leased.access_token().await? => leased.set_finished_by_access(),
        None => return Ok(Outcome::NotConnected),
    }
    Ok(decided)
}

/// Human API asks for fewer requests, so the task stops.
fn is_rate_limit(problem: &Problem) -> bool {
    matches!(problem.cause(), Some(Error::HumanApi(Failure { cause: Cause::RateLimited { .. }, .. })))
}
