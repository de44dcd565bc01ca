//! Requests to a tracking server.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, RequestBuilder, http};

use super::BYTES_PER_SECOND;
use super::server::Server;

/// Longest answer that is read.
const ANSWER_MAX: u64 = 4 << 20;

/// Why a request was not answered as it should be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Fault {
    /// The HTTP status, where there was one.
    pub(super) status: Option<u16>,
    reason: String,
    is_lasting: bool,
}

impl Fault {
    pub(super) fn new(reason: impl Into<String>) -> Fault {
        Fault { status: None, reason: reason.into(), is_lasting: false }
    }

    /// One that no further attempt changes.
    pub(super) fn lasting(reason: impl Into<String>) -> Fault {
        Fault { is_lasting: true, ..Fault::new(reason) }
    }

    /// Whether a further attempt would meet it too: what the server was asked for is wrong.
    pub(super) fn is_lasting(&self) -> bool {
        self.is_lasting || self.status.is_some_and(|status| (400..500).contains(&status))
    }
}

/// Speaks to one server.
pub(super) struct Client {
    agent: Agent,
    server: Server,
}

impl Client {
    pub(super) fn new(server: Server) -> Result<Client, Fault> {
        let config = Agent::config_builder()
            .timeout_global(Some(server.patience.request))
            .http_status_as_error(false)
            .user_agent(concat!("espalier/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls(&server)?);
        Ok(Client { agent: config.build().into(), server })
    }

    /// `GET` of the tracking interface.
    pub(super) fn get(&self, path: &str, query: (&str, &str)) -> Result<Value, Fault> {
        let request = self.agent.get(self.endpoint(path)).query(query.0, query.1);
        self.answer(self.authorized(request).call())
    }

    /// `POST` of the tracking interface.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        let request = self.agent.post(self.endpoint(path)).header("content-type", "application/json");
        self.answer(self.authorized(request).send(body.to_string()))
    }

    /// `PUT` of a file.
    pub(super) fn put(&self, url: &str, bytes: &[u8]) -> Result<(), Fault> {
        let limit = self.server.patience.request + Duration::from_secs(bytes.len() as u64 / BYTES_PER_SECOND);
        let request = self.agent.put(url).config().timeout_global(Some(limit)).build();
        let request = request.header("content-type", "application/octet-stream");
        self.text(self.authorized(request).send(bytes)).map(drop)
    }

    fn endpoint(&self, path: &str) -> String {
        format!("{}/api/2.0/mlflow/{path}", self.server.url)
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.server.authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        }
    }

    fn answer(&self, answer: Result<http::Response<Body>, ureq::Error>) -> Result<Value, Fault> {
        let text = self.text(answer)?;
        let fault = |_| Fault::new(format!("{} does not answer like an MLflow server", self.server.url));
        serde_json::from_str(&text).map_err(fault)
    }

    /// What a success says; nothing, for some requests and servers.
    fn text(&self, answer: Result<http::Response<Body>, ureq::Error>) -> Result<String, Fault> {
        let url = &self.server.url;
        let mut answer = answer.map_err(|e| Fault::new(format!("{url} does not answer ({e})")))?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string();
        let text = text.map_err(|e| Fault::new(format!("the answer of {url} breaks off ({e})")))?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let value = serde_json::from_str::<Value>(&text).ok();
        let why =
            value.and_then(|v| Some(v["message"].as_str()?.lines().next()?.chars().take(200).collect()));
        let why = why.map(|why: String| format!(": {why}")).unwrap_or_default();
        let fault = Fault::new(format!("{url} refuses with status {status}{why}"));
        Err(Fault { status: Some(status), ..fault })
    }
}

fn tls(server: &Server) -> Result<TlsConfig, Fault> {
    let mut tls = TlsConfig::builder().disable_verification(server.insecure);
    if let Some(pem) = &server.certificates {
        let items: Result<Vec<PemItem<'_>>, _> = parse_pem(pem).collect();
        let items = items.map_err(|e| Fault::new(format!("MLFLOW_TRACKING_SERVER_CERT_PATH: {e}")))?;
        let certificates: Vec<_> = items
            .into_iter()
            .filter_map(|item| match item {
                PemItem::Certificate(certificate) => Some(certificate.to_owned()),
                _ => None,
            })
            .collect();
        tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates)));
    }
    Ok(tls.build())
}
