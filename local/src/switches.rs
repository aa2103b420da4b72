//! The console's switches change the table, the stand-in and the network without the functions. Each says if it changed something, and
//! what to try next.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::identity::UserId;

use crate::aws::TABLE;
use crate::calls::ActionKind;
use crate::console::{Console, key};
use crate::faults::{Fault, Rule, Service};
use crate::secrets::{CLIENT_SECRET, TOKEN_KEY};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub(crate) enum Switch {
    LosePublicToken { user: String },
    DropUser { user: String },
    ExpireTokens { user: String },
    RotateSecret,
    RotateSealingKey,
    SingleUse { on: bool },
    Delay { ms: u64 },
    Fault { service: String, fault: String, once: bool },
    Story { name: String },
    NoFaults,
}

/// What a switch has done.
#[derive(Serialize)]
pub(crate) struct Done {
    changed: bool,
    title: String,
    next: &'static str,
}

/// A fault with a name that says what a user would see in production.
struct Story {
    name: &'static str,
    service: Service,
    fault: &'static str,
    operation: Option<&'static str>,
    once: bool,
    next: &'static str,
}

const STORIES: [Story; 6] = [
    Story {
        name: "Human API is down",
        service: Service::HumanApi,
        fault: "503",
        operation: None,
        once: false,
        next: "Connect: the app waits and says why. Then end the fault: the app goes on by itself.",
    },
    Story {
        name: "The answer to the exchange is lost",
        service: Service::HumanApi,
        fault: "reset after acting",
        operation: Some("tokens"),
        once: true,
        next: "Connect with the popup, as a user who is new here. The session is spent, so the app asks the user to connect again.",
    },
    Story {
        name: "Human API does not answer in time",
        service: Service::HumanApi,
        fault: "hang before acting",
        operation: None,
        once: true,
        next: "Connect: after 8 s, the app shows that Human API took too long, and tries again.",
    },
    Story {
        name: "Human API refuses the client secret",
        service: Service::HumanApi,
        fault: "401",
        operation: None,
        once: false,
        next: "Connect: the backend reads the secret again, and then answers 502 with the code upstream_unauthorized.",
    },
    Story {
        name: "DynamoDB throttles one call",
        service: Service::DynamoDb,
        fault: "throttled",
        operation: None,
        once: true,
        next: "Connect: the backend sends the call again, and the app sees nothing of it.",
    },
    Story {
        name: "Secrets Manager denies access",
        service: Service::SecretsManager,
        fault: "denied",
        operation: None,
        once: false,
        next: "Connect: the app waits and says why. Then end the fault: the app goes on by itself.",
    },
];

impl Done {
    fn new(changed: bool, title: impl Into<String>, next: &'static str) -> Self {
        Self { changed, title: title.into(), next }
    }
}

/// Returns the faults that the console offers, and the ones that are active.
pub(crate) fn faults(console: &Console) -> Value {
    let faults: Vec<Value> = Service::ALL
        .into_iter()
        .flat_map(|service| service.faults().into_iter().map(move |fault| (service, fault)))
        .map(|(service, (name, what, fault))| {
            let label = format!("{} · {what} · {}", service.name(), fault.when());
            json!({"service": service.name(), "fault": name, "label": label})
        })
        .collect();
    let rules = console.faults.rules();
    let active = rules.iter().map(|rule| {
        let known = rule.service.faults().into_iter().find(|(name, ..)| *name == rule.name);
        let what = known.map_or("has a fault", |(_, what, _)| what);
        let times = if rule.times.is_some() { "for the next call" } else { "for every call" };
        format!("{} {what} {times}", rule.service.name())
    });
    json!({
        "stories": STORIES.map(|story| story.name),
        "faults": faults,
        "active": active.collect::<Vec<_>>(),
    })
}

impl Console {
    /// Returns `None` if the switch names an unknown fault.
    pub(crate) async fn switch(&self, switch: Switch) -> Option<Done> {
        let done = match switch {
            Switch::LosePublicToken { user } => {
                if self.update(&user, "REMOVE userRecord.#a", "publicToken").await {
                    Done::new(
                        true,
                        format!("Our record has lost the public token of {user}."),
                        "Connect with the popup, or choose Recover it: the backend gets the token again from Human API.",
                    )
                } else {
                    let title = format!("Nothing to lose: our record has no public token of {user}.");
                    Done::new(false, title, "Connect with the popup first.")
                }
            }
            Switch::DropUser { user } => {
                if self.human_api.with(|state| state.drop_user(&user)) {
                    let next = "Let the stored tokens expire, then get an access token: the backend learns that the connection has ended.";
                    Done::new(true, format!("Human API has deleted {user}. Our record does not know it yet."), next)
                } else {
                    let title = format!("Nothing to delete: Human API does not know {user}.");
                    Done::new(false, title, "Connect a source first.")
                }
            }
            Switch::ExpireTokens { user } => {
                self.human_api.with(|state| state.expire_tokens(&user));
                let access = self.update(&user, "SET userRecord.#a.expiresAt = :now", "accessToken").await;
                let widget = self.update(&user, "SET userRecord.#a.expiresAt = :now", "widgetToken").await;
                if access || widget {
                    let next = "Get an access token, or open the widget: the backend requests a new token.";
                    Done::new(true, format!("The stored tokens of {user} have expired."), next)
                } else {
                    let title = format!("Nothing to expire: our record has no token of {user}.");
                    Done::new(false, title, "Connect a source first.")
                }
            }
            Switch::RotateSecret => {
                self.secrets.rotate(CLIENT_SECRET);
                let next = "Connect: Human API refuses the old secret, and the backend reads the new one.";
                Done::new(true, "The client secret has a new version.", next)
            }
            Switch::RotateSealingKey => {
                self.secrets.rotate(TOKEN_KEY);
                let next = "Run reseal: it seals each row with the new key. Until then, rows open with the old key.";
                Done::new(true, "The sealing key has a new version.", next)
            }
            Switch::SingleUse { on } => {
                self.human_api.with(|state| state.single_use = on);
                let title = if on { "A session token works once." } else { "A session token works again and again." };
                Done::new(true, title, "Connect with the popup.")
            }
            Switch::Delay { ms } => {
                self.human_api.with(|state| state.delay_ms = ms);
                let seconds = Duration::from_millis(ms).as_secs_f64();
                let title = if ms > 0 {
                    format!("Human API answers after {seconds} s.")
                } else {
                    "Human API answers at once.".to_owned()
                };
                Done::new(true, title, "Connect, and look at the diagram.")
            }
            Switch::Fault { service, fault, once } => {
                let service = Service::ALL.into_iter().find(|known| known.name() == service)?;
                let what = self.set_fault(service, &fault, None, once)?;
                let times = if once { "for the next call" } else { "for every call" };
                let title = format!("{} {what} {times}.", service.name());
                Done::new(
                    true,
                    title,
                    "Connect or get an access token. No data may be lost: look at the stored record.",
                )
            }
            Switch::Story { name } => {
                let story = STORIES.into_iter().find(|story| story.name == name)?;
                self.set_fault(story.service, story.fault, story.operation, story.once)?;
                Done::new(true, format!("{}.", story.name), story.next)
            }
            Switch::NoFaults => {
                let changed = !self.faults.rules().is_empty();
                self.faults.set([]);
                let title = if changed { "The faults have ended." } else { "There was no fault." };
                Done::new(changed, title, "")
            }
        };
        self.calls.begin_action(done.title.clone(), ActionKind::Switch);
        Some(done)
    }

    /// Sets a fault of a service. It replaces the service's earlier fault. Returns what the service does then.
    fn set_fault(
        &self,
        service: Service,
        name: &str,
        operation: Option<&'static str>,
        once: bool,
    ) -> Option<&'static str> {
        let (name, what, fault) = service.faults().into_iter().find(|(known, ..)| *known == name)?;
        // The proxy does not see refused connections, so it cannot count them.
        let once = once && !matches!(fault, Fault::Refused);
        let rule = Rule { times: once.then_some(1), operation, ..Rule::always(service, fault).named(name) };
        if service == Service::SecretsManager {
            // The functions have cached the secrets, so they must start again to meet the fault.
            self.gateway.restart();
        }
        let others = self.faults.rules().into_iter().filter(|other| other.service != service);
        self.faults.set(others.chain([rule]));
        Some(what)
    }

    /// Changes a row without the functions, if its record has this attribute. Returns `false` if it has not.
    async fn update(&self, user: &str, update: &str, attribute: &str) -> bool {
        let Some(user) = UserId::new(user) else { return false };
        let mut request = self
            .dynamodb
            .update_item()
            .table_name(TABLE)
            .key("userKey", key(&user))
            .condition_expression("attribute_exists(userRecord.#a)")
            .update_expression(update)
            .expression_attribute_names("#a", attribute);
        if update.contains(":now") {
            let now = Clock::system().now().to_string();
            request = request.expression_attribute_values(":now", AttributeValue::N(now));
        }
        request.send().await.is_ok()
    }
}
