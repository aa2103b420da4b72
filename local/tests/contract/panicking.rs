//! A panic under a lease.

use lambda_http::{Body, Context, LambdaEvent, Request, Response};
use local::gateway::user_event;
use serde_json::json;
use serde_json::value::RawValue;
use shared::clock::Clock;
use shared::http::{Problem, Route};
use shared::identity::UserId;
use shared::invocation::Invocation;
use shared::lambda::{Deps, Function, Runner};
use shared::store::{self, LeaseRequest, Row};
use shared::telemetry::Output;
use shared::tokens::TokenService;

use crate::world::{World, is};

const FINISH: Route = Route { method: "POST", path: "/connect/finish" };

/// A function whose work under the lease panics.
struct Panics(TokenService);

impl Function for Panics {
    const NAME: &'static str = "panics";
    const ROUTES: &'static [Route] = &[FINISH];

    fn new(deps: Deps<'_>) -> Self {
        Self(deps.tokens())
    }

    async fn prepare(&self) {}

    async fn handle(&self, _: Route, _: &Request, invocation: &Invocation) -> Result<Response<Body>, Problem> {
        let user = UserId::new("ada").unwrap();
        let request = LeaseRequest::of(&user, store::Request::Access);
        let no_answer = |_: &Row| None::<Result<(), _>>;
        let work = self.0.exclusive(request, no_answer, |_| Box::pin(async { unreachable!("made up") }), invocation);
        work.await?;
        Ok(Response::default())
    }
}

#[tokio::test]
async fn a_panic_under_the_lease_locks_no_user() {
    let world = World::new().await;
    let function = Runner::<Panics>::new(&world.stack.config, Clock::system(), Output::new(std::io::sink())).unwrap();
    let event = user_event("POST /connect/finish", "ada", &json!({}));
    let event = RawValue::from_string(event.to_string()).unwrap();
    let response = function.run(LambdaEvent::new(event, Context::default())).await;
    assert!(response.contains("\"statusCode\":503"), "{response}");

    let row = world.row("ada").await;
    let until: i64 = row["leaseUntil"].as_n().unwrap().parse().unwrap();
    assert!(row.contains_key("pending") && until < Clock::system().now(), "released, and unresolved: {row:?}");
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert!(!world.table().await.concat().contains("\"pending\""));
}
