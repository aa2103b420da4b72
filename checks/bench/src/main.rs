//! The environment of one measured function, on loopback: Lambda's Runtime API, and the local stack behind TLS.
//! `checks/bench/run` starts it. Its first line of standard output has the function's environment variables. Then it reads
//! these commands, one per line of standard input:
//!
//! - `delay HUMAN_API DYNAMODB SECRETS_MANAGER`: delays of their responses from now on, in milliseconds
//! - `event JSON`: the event to send. `{i}` stands for the user's number. `{humanId}` and `{sessionToken}` stand for what the
//!   user's popup gives to its page
//! - `wait`: answers when the function requests its next event
//! - `invoke COUNT FIRST`: sends COUNT events, numbered from FIRST, each when the function requests it; answers when the
//!   function requests one more
//!
//! The answer to each command is one line of JSON. The process ends when its standard input ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use local::faults::{Fault, Rule, Service};
use local::local_stack::{LocalStack, Options};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use test_support::runtime_api::RuntimeApi;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The function's variables with an address. With each is the stack's variable that has the address behind it.
const ADDRESSES: [(&str, &str); 4] = [
    ("HUMAN_API_AUTH_URL", "HUMAN_API_AUTH_URL"),
    ("HUMAN_API_USER_URL", "HUMAN_API_USER_URL"),
    ("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"),
    ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"),
];

// One thread: the other core belongs to the function.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).ok_or("usage: bench FOLDER (with certificate.pem and key.pem)")?;
    let stack = LocalStack::start(Options::in_memory()).await?;
    let api = RuntimeApi::start().await?;
    let mut environment: BTreeMap<String, String> = stack.environment.iter().cloned().collect();
    for (name, behind) in ADDRESSES {
        let plain = environment.get(behind).and_then(|url| url.strip_prefix("http://")).ok_or(behind)?.to_owned();
        // Each has its own acceptor. All are `localhost`, and a shared TLS session would spare the function a handshake.
        environment.insert(name.to_owned(), terminate_tls(acceptor(&folder)?, plain).await?);
    }
    // Nothing goes past TLS.
    environment.remove("AWS_ENDPOINT_URL");
    environment.insert("AWS_LAMBDA_RUNTIME_API".to_owned(), api.address.to_string());

    let mut out = tokio::io::stdout();
    let mut say = async |line: Value| -> Result<(), Failure> {
        out.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(out.flush().await?)
    };
    say(json!(environment)).await?;
    let mut event = String::new();
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = commands.next_line().await? {
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let mut numbers = rest.split(' ').map(|word| word.parse::<u64>());
        let mut number = || numbers.next().and_then(Result::ok).ok_or("a number is missing");
        say(match command {
            "delay" => {
                let mut rules = Vec::new();
                for service in Service::ALL {
                    match number()? {
                        0 => {}
                        delay => rules.push(Rule::always(service, Fault::late(Duration::from_millis(delay)))),
                    }
                }
                stack.faults.set(rules);
                Value::Null
            }
            "event" => {
                rest.clone_into(&mut event);
                Value::Null
            }
            "wait" => {
                api.asked().await;
                Value::Null
            }
            "invoke" => {
                let (count, first) = (number()?, number()?);
                let mut outcomes = Vec::new();
                for number in first..first + count {
                    outcomes.push(invoke(&stack, &api, fill_in(&event, number, &stack)).await?);
                    api.asked().await;
                }
                Value::Array(outcomes)
            }
            _ => return Err("no such command".into()),
        })
        .await?;
    }
    Ok(())
}

/// Fills in the placeholders of an event.
fn fill_in(event: &str, number: u64, stack: &LocalStack) -> String {
    let mut event = event.replace("{i}", &number.to_string());
    if event.contains("{sessionToken}") {
        let popup = stack.human_api.popup(&format!("user-{number}"));
        for (name, value) in popup.as_object().into_iter().flatten() {
            event = event.replace(&format!("{{{name}}}"), value.as_str().unwrap_or_default());
        }
    }
    event
}

/// Sends an event, and measures the invocation and its calls.
async fn invoke(stack: &LocalStack, api: &RuntimeApi, event: String) -> Result<Value, Failure> {
    stack.calls.clear();
    let started = Instant::now();
    let response = api.invoke(event).await?;
    let took = started.elapsed();
    let calls = stack.calls.after(0).0;
    Ok(json!({
        "ms": took.as_secs_f64() * 1000.0,
        "status": response.get("statusCode").and_then(Value::as_u64),
        "calls": calls.iter().map(|call| call.what.as_str()).collect::<Vec<_>>(),
        "calls_ms": calls.iter().filter_map(|call| call.ms).sum::<f64>(),
    }))
}

/// Returns a TLS acceptor with the made-up certificate of this folder.
fn acceptor(folder: &str) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(Path::new(folder).join("certificate.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(Path::new(folder).join("key.pem"))?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves TLS on a free port in front of this plain address, and returns the URL.
async fn terminate_tls(acceptor: TlsAcceptor, plain: String) -> std::io::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("https://localhost:{}", listener.local_addr()?.port());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                client.set_nodelay(true)?;
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(plain).await?;
                server.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok(url)
}
