//! Forwards the functions' calls, and applies [`Faults`] to them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::calls::{Calls, Underway};
use crate::faults::{Acts, Answer, Fault, Faults, Service};
use crate::names_this_machine;

/// A proxy for the services behind one address.
#[derive(Clone)]
pub struct Proxy {
    faults: Faults,
    calls: Calls,
    /// The services and their URLs.
    upstreams: Vec<(Service, String)>,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// A request of a function.
#[derive(Clone)]
struct Call {
    service: Service,
    operation: String,
    upstream: String,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

enum Outcome {
    Answer(Response<Body>),
    /// No response comes while the client waits.
    Nothing(Option<Underway>),
}

#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection was cut")
    }
}

impl std::error::Error for Cut {}

impl Proxy {
    /// Creates a proxy for these services and their URLs.
    pub fn new(faults: Faults, calls: Calls, upstreams: Vec<(Service, String)>) -> Self {
        Self { faults, calls, upstreams, http: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Serves at the address of this socket, and returns the URL. The socket never listens: it reserves the port while connections are
    /// refused.
    pub fn serve(self, reserved: TcpSocket) -> std::io::Result<String> {
        let address = reserved.local_addr()?;
        let mut listener = Some(listen(address)?);
        let mut changes = self.faults.changes();
        let proxy = Arc::new(self);
        tokio::spawn(async move {
            let _reserved = reserved;
            let mut conversations = JoinSet::new();
            loop {
                if proxy.upstreams.iter().any(|(service, _)| proxy.faults.refuses(*service)) {
                    listener = None;
                    conversations.abort_all();
                } else if listener.is_none() {
                    listener = listen(address).ok();
                }
                let accept = async {
                    match &listener {
                        Some(listener) => listener.accept().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    accepted = accept => if let Ok((stream, _)) = accepted {
                        conversations.spawn(converse(proxy.clone(), stream));
                    },
                    changed = changes.changed() => if changed.is_err() { return },
                    Some(_) = conversations.join_next() => {}
                }
            }
        });
        Ok(format!("http://{address}"))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Outcome, Cut> {
        if !names_this_machine(request.headers()) {
            return Ok(Outcome::Answer(with_status(421, Body::empty())));
        }
        let mut in_flight = self.faults.start_request();
        let call = self.read(request).await.ok_or(Cut)?;
        let underway = self.record(&call);
        let strike = |has_waited| match call.operation.as_str() {
            "" => None,
            operation => self.faults.fire(call.service, operation, has_waited),
        };
        let mut fault = strike(false);
        if let Some(Fault::After(event)) = &fault {
            drop(in_flight);
            event().await;
            in_flight = self.faults.start_request();
            fault = strike(true);
        }
        if let Some(Fault::Hang(acts)) = fault {
            if acts == Acts::First {
                self.perform(&call).await;
            }
            return Ok(Outcome::Nothing(underway));
        }
        let answer = match fault {
            None => self.pass_on(&call).await,
            Some(fault) => self.fail(&call, fault).await?,
        };
        if let Some(underway) = underway {
            underway.end(answer.status().as_u16());
        }
        drop(in_flight);
        Ok(Outcome::Answer(answer))
    }

    fn record(&self, call: &Call) -> Option<Underway> {
        let what = match call.service {
            _ if call.operation.is_empty() => return None,
            Service::HumanApi => format!("POST /v1/connect/{}", call.operation),
            _ => call.operation.clone(),
        };
        Some(self.calls.of_function(call.service.name(), what))
    }

    async fn read(&self, request: Request<Incoming>) -> Option<Call> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let service = match target {
            Some(target) if target.starts_with("secretsmanager.") => Service::SecretsManager,
            Some(_) => Service::DynamoDb,
            None => self.upstreams.first()?.0,
        };
        let upstream = self.upstreams.iter().find(|(known, _)| *known == service)?.1.clone();
        let fields: Value = serde_json::from_slice(&body).unwrap_or_default();
        let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let (operation, of) = match target {
            Some(target) => (target.split_once('.')?.1, field("SecretId").rsplit('/').next().unwrap_or_default()),
            None => (path.strip_prefix("/v1/connect/").unwrap_or_default(), field("type")),
        };
        let operation = if of.is_empty() { operation.to_owned() } else { format!("{operation} ({of})") };
        let mut headers = parts.headers;
        headers.remove(header::HOST);
        Some(Call { service, operation, upstream, method: parts.method, path, headers, body })
    }

    async fn pass_on(&self, call: &Call) -> Response<Body> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.headers_mut() = call.headers.clone();
        *request.uri_mut() = format!("{}{}", call.upstream, call.path).parse().unwrap_or_default();
        match self.http.request(request).await {
            Ok(answer) => answer.map(Body::new),
            Err(_) => with_status(502, Body::empty()),
        }
    }

    /// Forwards the call and reads the whole response.
    async fn perform(&self, call: &Call) -> (u16, Bytes) {
        let answer = self.pass_on(call).await;
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default())
    }

    async fn fail(&self, call: &Call, fault: Fault) -> Result<Response<Body>, Cut> {
        if let Fault::Reset(Acts::First) | Fault::Answer(Acts::First, _) = fault {
            self.perform(call).await;
        }
        match fault {
            Fault::Refused | Fault::Reset(_) | Fault::Hang(_) => Err(Cut),
            Fault::SlowBody => {
                let (status, body) = self.perform(call).await;
                let drops = stream::iter(body).then(|byte| async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok::<_, Cut>(Bytes::from(vec![byte]))
                });
                Ok(with_status(status, Body::from_stream(drops)))
            }
            Fault::HalfBody => {
                let (status, body) = self.perform(call).await;
                let half = [Ok(body.slice(..body.len() / 2)), Err(Cut)];
                Ok(with_status(status, Body::from_stream(stream::iter(half))))
            }
            Fault::Answer(_, answer) => Ok(made_up(answer)),
            Fault::Conflict => Ok(self.conflict(call).await),
            Fault::Copy(acts, copies) => {
                let (late, proxy) = (call.clone(), self.clone());
                copies.keep(async move { proxy.perform(&late).await.0 }.boxed());
                if acts == Acts::First { Ok(self.pass_on(call).await) } else { Err(Cut) }
            }
            Fault::After(_) => Ok(self.pass_on(call).await),
        }
    }

    /// Answers as DynamoDB does if a condition fails, with the current row. Requests without a condition are forwarded.
    async fn conflict(&self, call: &Call) -> Response<Body> {
        let fields: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        if fields.get("ConditionExpression").is_none() {
            return self.pass_on(call).await;
        }
        let get = json!({"TableName": fields.get("TableName"), "Key": fields.get("Key"), "ConsistentRead": true});
        let mut headers = call.headers.clone();
        headers.insert("x-amz-target", HeaderValue::from_static("DynamoDB_20120810.GetItem"));
        headers.remove(header::CONTENT_LENGTH);
        let look = Call { headers, body: get.to_string().into(), ..call.clone() };
        let (_, row) = self.perform(&look).await;
        let row: Value = serde_json::from_slice(&row).unwrap_or_default();
        let mut answer = json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "message": "The conditional request failed",
        });
        if let (Some(answer), Some(item)) = (answer.as_object_mut(), row.get("Item")) {
            answer.insert("Item".to_owned(), item.clone());
        }
        made_up(Answer { content_type: "application/x-amz-json-1.0", ..Answer::json(400, answer.to_string()) })
    }
}

/// Answers a connection's requests until the connection ends or a fault cuts it.
async fn converse(proxy: Arc<Proxy>, stream: TcpStream) {
    let service = service_fn(|request| {
        let proxy = proxy.clone();
        Box::pin(async move {
            // A real server completes a request even if its client disconnects.
            match tokio::spawn(async move { proxy.answer(request).await }).await {
                Ok(Ok(Outcome::Answer(answer))) => Ok(answer),
                Ok(Ok(Outcome::Nothing(_underway))) => std::future::pending().await,
                _ => Err(Cut),
            }
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if poll_fn(|cx| connection.poll_without_shutdown(cx)).await.is_err() {
        // A reset looks like a peer that died.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

fn made_up(answer: Answer) -> Response<Body> {
    let mut response = with_status(answer.status, Body::from(answer.body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn with_status(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Binds a port of the loopback interface, or a free one if `port` is 0.
pub fn bind(port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    bind(address.port())?.listen(1024)
}
