//! The one HTTP client: Human API is called with it, and so are [DynamoDB and Secrets Manager](crate::aws).
//!
//! One TLS stack (rustls on ring), one connection pool, roots compiled in.

use std::time::Duration;

use futures_util::future::join_all;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use url::Url;

use crate::{aws::dynamodb_address, config::Config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Load balancers drop idle connections after 60 s and more; ours go first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// In bytes. The whole of Mozilla's roots is a quarter of this.
const CA_BUNDLE_LIMIT: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("AWS_CA_BUNDLE is not a readable PEM file of certificates")]
    CaBundle,
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the HTTP client could not be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// Builds the client. It follows no redirect, and repeats no request.
pub fn http_client(config: &Config) -> Result<reqwest::Client, NetworkError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = &config.ca_bundle {
        if !std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= CA_BUNDLE_LIMIT) {
            return Err(NetworkError::CaBundle);
        }
        let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let (added, _) = roots.add_parsable_certificates(certificates.map_err(|_| NetworkError::CaBundle)?);
        if added == 0 {
            return Err(NetworkError::CaBundle);
        }
    }
    let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // only ours: plain http, which is loopback, must not leave through a proxy that would read it
    let mut builder = reqwest::Client::builder().no_proxy();
    if let Some(proxy) = &config.https_proxy {
        let except = format!("{},localhost,127.0.0.0/8,::1", config.no_proxy);
        let proxy = reqwest::Proxy::https(proxy.clone())?.no_proxy(reqwest::NoProxy::from_string(&except));
        builder = builder.proxy(proxy);
    }
    Ok(builder
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .build()?)
}

/// The hosts that a function will call.
pub struct Connections {
    http: reqwest::Client,
    urls: Vec<Url>,
}

impl Connections {
    /// `others` are the hosts beside DynamoDB.
    pub fn new(config: &Config, http: &reqwest::Client, others: &[&Url]) -> Self {
        let dynamodb = Url::parse(&dynamodb_address(&config.aws)).ok();
        let mut urls: Vec<Url> = dynamodb.iter().chain(others.iter().copied()).cloned().collect();
        urls.dedup();
        Self { http: http.clone(), urls }
    }

    /// Opens a connection to each and leaves it in the pool, all at the same time. `GET /` means nothing to any of them.
    /// Failures are ignored, because the first request then opens its own connection.
    pub async fn open(&self) {
        let open = async |url: &Url| {
            if let Ok(answer) = self.http.get(url.clone()).timeout(CONNECT_TIMEOUT).send().await
                && answer.content_length().is_some_and(|length| length < 4096)
            {
                // read to its end, or the connection is not kept
                let _ = answer.bytes().await;
            }
        };
        join_all(self.urls.iter().map(open)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::aws::tests::config;

    #[tokio::test]
    async fn https_goes_through_the_proxy_as_a_tunnel_and_plain_http_past_it() {
        let listen = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            (listener, address)
        };
        let ((proxy, proxy_url), (plain, plain_url)) = (listen().await, listen().await);
        let client = http_client(&config(&[("HTTPS_PROXY", &proxy_url)])).unwrap();
        let heard = async |listener: TcpListener| {
            let mut text = [0; 64];
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read(&mut text).await.unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        let (_, tunnel) = tokio::join!(client.get("https://made-up.example.test/").send(), heard(proxy));
        assert!(tunnel.starts_with("CONNECT made-up.example.test:443 "), "{tunnel}");
        let (_, request) = tokio::join!(client.get(&plain_url).send(), heard(plain));
        assert!(request.starts_with("GET / "), "{request}");
    }

    #[test]
    fn a_bundle_that_is_no_file_or_has_no_certificate_is_refused() {
        for bundle in ["/dev/zero", "/", "/made-up/roots.pem", file!()] {
            let config = config(&[("AWS_CA_BUNDLE", bundle)]);
            assert!(matches!(http_client(&config), Err(NetworkError::CaBundle)), "{bundle}");
        }
    }
}
