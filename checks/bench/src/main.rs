//! The world around one function, on loopback: Lambda's Runtime API, and over TLS Human API, DynamoDB and Secrets
//! Manager with settable delays. `checks/bench/run` starts it, and tells it by lines on standard input what to do:
//!
//! - `delay HUMAN_API DYNAMODB SECRETS_MANAGER`: milliseconds by which each answers later from now on
//! - `event JSON`: the event to hand out; `{i}` in it stands for the invocation's number
//! - `wait`: answers as soon as the function asks for its next event
//! - `invoke COUNT FIRST`: hands out COUNT events, numbered from FIRST, each as soon as the function asks for it; answers
//!   once it asks for one more
//!
//! Each command is answered by one line of JSON. The world ends with its standard input.

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

// one thread: the other core is the function's
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
        // one of its own: all are `localhost`, and one's session must not spare another's handshake
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
                runtime_api.asked().await;
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
