//! The environment of one measured function, on loopback: Lambda's Runtime API, and over TLS Human API, DynamoDB and Secrets
//! Manager with settable delays. `checks/bench/run` starts it and sends these commands, one per line of standard input:
//!
//! - `delay HUMAN_API DYNAMODB SECRETS_MANAGER`: delays of their responses from now on, in milliseconds
//! - `event JSON`: the event to send; `{i}` in it stands for the invocation's number
//! - `wait`: answers when the function requests its next event
//! - `invoke COUNT FIRST`: sends COUNT events, numbered from FIRST, each when the function requests it; answers when the
//!   function requests one more
//!
//! The answer to each command is one line of JSON. The process ends when its standard input ends.

mod runtime_api;
mod serve;
mod table;
mod upstream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use runtime_api::RuntimeApi;
use upstream::{Service, Upstreams};

type Failure = Box<dyn std::error::Error + Send + Sync>;

// One thread: the other core belongs to the function.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).ok_or("usage: bench FOLDER (with certificate.pem and key.pem)")?;
    let upstreams = Arc::new(Upstreams::default());
    let runtime_api = Arc::new(RuntimeApi::new(upstreams.clone()));

    let listen = async || TcpListener::bind(("127.0.0.1", 0)).await;
    let mut ports = serde_json::Map::new();
    for service in Service::ALL {
        let listener = listen().await?;
        ports.insert(service.name().to_owned(), json!(listener.local_addr()?.port()));
        let upstreams = upstreams.clone();
        // Each service has its own acceptor. All are `localhost`, and a shared TLS session would spare the function a
        // handshake.
        let acceptor = serve::acceptor(&folder)?;
        tokio::spawn(serve::serve(listener, Some(acceptor), move |request| {
            let upstreams = upstreams.clone();
            async move { upstreams.answer(service, request).await }
        }));
    }
    let listener = listen().await?;
    ports.insert("runtime_api".to_owned(), json!(listener.local_addr()?.port()));
    let api = runtime_api.clone();
    tokio::spawn(serve::serve(listener, None, move |request| {
        let api = api.clone();
        async move { api.answer(request).await }
    }));

    let mut out = tokio::io::stdout();
    let mut say = async |line: Value| -> Result<(), Failure> {
        out.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(out.flush().await?)
    };
    say(Value::Object(ports)).await?;
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = commands.next_line().await? {
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let mut numbers = rest.split(' ').map(|word| word.parse::<u64>());
        let mut number = || numbers.next().and_then(Result::ok).ok_or("a number is missing");
        say(match command {
            "delay" => {
                let mut delay = || number().map(Duration::from_millis);
                upstreams.delay([delay()?, delay()?, delay()?]);
                Value::Null
            }
            "event" => {
                runtime_api.set_event(rest);
                Value::Null
            }
            "wait" => {
                runtime_api.wait_for_request().await;
                Value::Null
            }
            "invoke" => {
                let (count, first) = (number()?, number()?);
                runtime_api.invoke(count, first).await
            }
            _ => return Err("no such command".into()),
        })
        .await?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
