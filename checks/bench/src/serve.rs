//! An HTTP/1.1 server with persistent connections, with or without TLS.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Failure;

/// A request with its whole body.
pub(crate) type FullRequest = Request<Bytes>;
pub(crate) type Answer = Response<Full<Bytes>>;

/// Returns a TLS acceptor with the made-up certificate of this folder.
pub(crate) fn acceptor(folder: &str) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(Path::new(folder).join("certificate.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(Path::new(folder).join("key.pem"))?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the process ends.
pub(crate) async fn serve<F: Future<Output = Answer> + Send>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    answer: impl Fn(FullRequest) -> F + Clone + Send + 'static,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (tls, answer) = (tls.clone(), answer.clone());
        tokio::spawn(async move {
            match tls {
                None => talk(stream, answer).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        talk(stream, answer).await;
                    }
                }
            }
        });
    }
}

async fn talk<F: Future<Output = Answer> + Send>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    answer: impl Fn(FullRequest) -> F + Clone + Send,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, Infallible>(answer(Request::from_parts(parts, body)).await)
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
