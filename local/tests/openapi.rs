//! Compares `openapi.yaml` with the code: the routes, the table of errors, and the response to every event of `events/`.

use std::collections::BTreeSet;
use std::path::Path;

use local::examples;
use local::local_stack::{LocalStack, Options};
use serde_json::{Value, json};
use shared::http::Code;
use shared::http::Route;
use shared::lambda::Function;

const PROBLEM: &str = "application/problem+json";
/// The codes of paths and methods that the document does not have.
const ELSEWHERE: [Code; 2] = [Code::NotFound, Code::MethodNotAllowed];
/// The codes with `Retry-After`.
const PASSING: [Code; 4] =
    [Code::FinishInProgress, Code::UpstreamUnavailable, Code::StoreUnavailable, Code::SecretUnavailable];

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(file)).unwrap()
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap()
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

struct Document(Value);

/// A documented response of one operation.
struct Response<'a> {
    route: String,
    status: u16,
    reference: Option<&'a str>,
    value: &'a Value,
}

impl Document {
    fn new() -> Self {
        Self(yaml("openapi.yaml"))
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
            None => value,
        }
    }

    /// Returns every operation with its route.
    fn operations(&self) -> Vec<(String, &Value)> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters");
            methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
        });
        operations.collect()
    }

    fn responses(&self) -> Vec<Response<'_>> {
        let mut responses = Vec::new();
        for (route, operation) in self.operations() {
            for (status, value) in operation["responses"].as_object().unwrap() {
                responses.push(Response {
                    route: route.clone(),
                    status: status.parse().unwrap(),
                    reference: value["$ref"].as_str(),
                    value: self.resolve(value),
                });
            }
        }
        responses
    }

    fn find(&self, route: &str, status: u16) -> Option<Response<'_>> {
        self.responses().into_iter().find(|response| response.route == route && response.status == status)
    }

    /// Returns the required properties of every form of the response.
    fn forms<'a>(&'a self, response: &Response<'a>) -> Vec<BTreeSet<&'a str>> {
        let schema = self.resolve(&response.value["content"]["application/json"]["schema"]);
        let forms = schema["oneOf"].as_array().map_or_else(|| vec![schema], |forms| forms.iter().collect());
        forms.into_iter().map(|form| texts(&self.resolve(form)["required"])).collect()
    }
}

impl Response<'_> {
    /// Returns the codes of the response's problem. The set is empty if the response has no problem.
    fn codes(&self) -> BTreeSet<&str> {
        match self.value["content"].get(PROBLEM) {
            Some(problem) => texts(&problem["schema"]["allOf"][1]["properties"]["code"]["enum"]),
            None => BTreeSet::new(),
        }
    }

    /// Returns the response's examples of this media type.
    fn examples(&self, media_type: &str) -> Vec<&Value> {
        let content = &self.value["content"][media_type];
        let named = content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
        content.get("example").into_iter().chain(named).collect()
    }
}

fn code(name: &str) -> Code {
    *Code::ALL.iter().find(|code| code.name() == name).unwrap_or_else(|| panic!("{name} is no code"))
}

/// A function's name, one of its routes for the gateway, and all its routes.
type Served = (&'static str, &'static str, BTreeSet<String>);

fn functions() -> [Served; 5] {
    fn served<F: Function>(route: &'static str) -> Served {
        let routes = F::ROUTES.iter().map(|Route { method, path }| format!("{method} {path}"));
        (F::NAME, route, routes.collect())
    }
    [
        served::<session_start::SessionStart>("POST /connect/session"),
        served::<finish::Finish>("POST /connect/finish"),
        served::<public_token::PublicToken>("POST /connect/public-token"),
        served::<access_token::AccessToken>("POST /internal/access-token"),
        served::<connection::Connection>("GET /connect/connection"),
    ]
}

#[test]
fn the_routes_are_those_of_the_functions_and_of_the_template() {
    let document = Document::new();
    let documented: BTreeSet<String> = document.operations().into_iter().map(|(route, _)| route).collect();
    let served: BTreeSet<String> = functions().into_iter().flat_map(|(_, _, routes)| routes).collect();
    assert_eq!(documented, served);

    let template = yaml("template.yaml");
    let mut deployed = BTreeSet::new();
    for resource in template["Resources"].as_object().unwrap().values() {
        let events = resource["Properties"]["Events"].as_object().into_iter().flat_map(|events| events.values());
        for event in events.filter(|event| event["Type"] == "HttpApi") {
            let properties = &event["Properties"];
            let route = format!("{} {}", properties["Method"].as_str().unwrap(), properties["Path"].as_str().unwrap());
            let security = match properties["Auth"]["Authorizer"].as_str() {
                Some("UserJwt") => json!([{"user": []}]),
                Some("AWS_IAM") => json!([{"backend": []}]),
                _ => json!([]),
            };
            let (_, operation) = document.operations().into_iter().find(|(other, _)| *other == route).unwrap();
            assert_eq!(operation["security"], security, "{route}");
            deployed.insert(route);
        }
    }
    assert_eq!(documented, deployed);
}

#[test]
fn the_errors_are_those_of_the_table() {
    let document = Document::new();
    let schemas = &document.0["components"]["schemas"];
    assert_eq!(schemas["Code"]["enum"], json!(Code::ALL.map(Code::name)));

    let (mut found, mut used) = (BTreeSet::new(), BTreeSet::new());
    for response in document.responses() {
        let told = format!("{}, {}", response.route, response.status);
        used.extend(response.reference.and_then(|reference| reference.strip_prefix("#/components/responses/")));
        let codes = response.codes();
        let problem = &response.value["content"][PROBLEM];
        if codes.is_empty() {
            // This is a success, or API Gateway's own response.
            assert_eq!(*problem, Value::Null, "{told}");
            continue;
        }
        assert_eq!(problem["schema"]["allOf"][1]["properties"]["status"]["const"], response.status, "{told}");
        for name in &codes {
            assert_eq!(code(name).status().as_u16(), response.status, "{told}: {name}");
            found.insert((*name).to_owned());
        }
        for example in response.examples(PROBLEM) {
            assert_eq!(keys(example), texts(&schemas["Problem"]["required"]), "{told}");
            let name = example["code"].as_str().unwrap();
            assert!(codes.contains(name), "{told}: {name}");
            assert_eq!(example["type"], format!("urn:human-connect:error:{name}"), "{told}");
            assert_eq!((&example["status"], &example["title"]), (&json!(response.status), &json!(code(name).title())));
        }
        let passing = codes.iter().filter(|name| PASSING.contains(&code(name))).count();
        let retry_after = &response.value["headers"]["Retry-After"];
        assert_eq!(!retry_after.is_null(), passing > 0, "{told}: Retry-After");
        // API Gateway's own responses have no `Retry-After`.
        let always = passing == codes.len() && response.value["content"].get("application/json").is_none();
        assert_eq!(document.resolve(retry_after)["required"].as_bool().unwrap_or(false), always, "{told}: Retry-After");
    }
    assert_eq!(used, keys(&document.0["components"]["responses"]), "responses of no operation");
    for elsewhere in ELSEWHERE {
        let told = format!("`{}` ({})", elsewhere.name(), elsewhere.status().as_u16());
        assert!(schemas["Problem"]["description"].as_str().unwrap().contains(&told), "{told}");
    }
    let expected = Code::ALL.iter().filter(|code| !ELSEWHERE.contains(code));
    assert_eq!(found, expected.map(|code| code.name().to_owned()).collect());
}

#[test]
fn the_answers_have_what_their_examples_have() {
    let document = Document::new();
    for response in document.responses().iter().filter(|response| matches!(response.status, 200 | 201)) {
        let told = format!("{}, {}", response.route, response.status);
        let examples = response.examples("application/json");
        assert!(!examples.is_empty(), "{told}");
        for example in examples {
            assert!(document.forms(response).contains(&keys(example)), "{told}: {example}");
        }
    }
}

#[tokio::test]
async fn every_event_is_answered_as_documented() {
    let document = Document::new();
    let stack = LocalStack::start(Options::in_memory()).await.unwrap();
    examples::set_up(&stack).await.unwrap();
    let readme = read("events/README.md");
    let files: Vec<&str> =
        readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(file, _)| file).collect();
    assert!(!files.is_empty());
    let functions = functions();
    // An event of `maintenance` or of `publisher` is not a request of the API.
    let is_request = |file: &&str| !file.starts_with("maintenance/") && !file.starts_with("publisher/");
    for file in files.into_iter().filter(is_request) {
        let event: Value = serde_json::from_str(&read(&format!("events/{file}"))).unwrap();
        let (_, of_function, routes) = functions.iter().find(|(name, ..)| file.starts_with(name)).unwrap();
        let route = match event["routeKey"].as_str() {
            Some(route) => route.to_owned(),
            None => format!("{} {}", event["httpMethod"].as_str().unwrap(), event["resource"].as_str().unwrap()),
        };
        let reply = stack.gateway.invoke(of_function, &event).await;
        let body = reply.json();
        let told = format!("{file}: {route} was answered with {} {body}", reply.status);
        if !routes.contains(&route) {
            assert!(ELSEWHERE.map(Code::name).map(Value::from).contains(&body["code"]), "{told}");
            continue;
        }
        let response = document.find(&route, reply.status).unwrap_or_else(|| panic!("{told}"));
        if reply.status == 204 {
            assert_eq!((&response.value["content"], reply.body.as_str()), (&Value::Null, ""), "{told}");
            continue;
        }
        let media_type = reply.headers["content-type"].as_str().unwrap();
        assert!(response.value["content"].get(media_type).is_some(), "{told}");
        if reply.status < 300 {
            assert!(document.forms(&response).contains(&keys(&body)), "{told}");
        } else {
            assert!(response.codes().contains(body["code"].as_str().unwrap()), "{told}");
            assert_eq!(keys(&body), texts(&document.0["components"]["schemas"]["Problem"]["required"]), "{told}");
        }
    }
}

#[test]
fn the_table_of_errors_has_each_code_with_its_status() {
    let document = include_str!("../../docs/api.md");
    let rows: Vec<_> = document.lines().filter_map(|line| line.strip_prefix("| <a id=\"")).collect();
    let documented: BTreeSet<_> = rows
        .iter()
        .map(|row| row.splitn(4, ['"', '|']).collect::<Vec<_>>())
        .map(|cells| {
            assert!(cells[1].contains(&format!("`{}`", cells[0])), "{cells:?}");
            (cells[0].to_owned(), cells[2].trim().to_owned())
        })
        .collect();
    let known = Code::ALL.map(|code| (code.name().to_owned(), code.status().as_u16().to_string()));
    assert_eq!(documented, known.into_iter().collect());
    assert_eq!(rows.len(), Code::ALL.len());
}
