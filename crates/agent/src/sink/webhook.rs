//! To a web server, one request for each insight.

use std::time::Duration;

use espalier_wire::{Batch, Lost, Message};
use ureq::Agent;

use super::receiver::{Outcome, Receiver};
use crate::address::Address;

/// For a whole request with its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A web server.
pub(super) struct Webhook {
    agent: Agent,
    url: Address,
    authorization: Option<Address>,
    sent: u64,
}

/// Why a request was not accepted.
enum Refusal {
    /// It may be later.
    Now(String),
    /// It never will be: the server does not like this message.
    Forever,
}

impl Webhook {
    pub(super) fn new(url: Address, authorization: Option<Address>) -> Webhook {
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("espalier-agent/", env!("CARGO_PKG_VERSION")));
        Webhook { agent: config.build().new_agent(), url, authorization, sent: 0 }
    }

    fn post(&mut self, key: &str, body: &str) -> Result<(), Refusal> {
        let (url, login) = self.url.credentials();
        let mut request =
            self.agent.post(url).header("Content-Type", "application/json").header("Idempotency-Key", key);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization.url());
        } else if let Some((user, password)) = login {
            let basic =
                base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{user}:{password}"));
            request = request.header("Authorization", format!("Basic {basic}"));
        }
        self.sent += body.len() as u64;
        let shown = |what: String| Refusal::Now(self.url.redact(&format!("{}: {what}", self.url)));
        let answer = request.send(body).map_err(|e| shown(e.to_string()))?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            400 | 411 | 413 | 414 | 415 | 422 => Err(Refusal::Forever),
            status => Err(shown(format!("status {status}"))),
        }
    }
}

impl Receiver for Webhook {
    fn deliver(&mut self, batch: &Batch) -> Result<Outcome, String> {
        let mut outcome = Outcome::all(batch);
        let lost = Lost::of(batch).into_iter().map(|lost| (lost.key(), lost.to_json()));
        let messages = Message::of(batch).into_iter().map(|message| (message.key(), message.to_json()));
        for (key, body) in lost.chain(messages) {
            match self.post(&key, &body) {
                Ok(()) => {}
                Err(Refusal::Forever) => outcome.rejected += 1,
                Err(Refusal::Now(reason)) => return Err(reason),
            }
        }
        Ok(outcome)
    }

    fn bytes_sent(&self) -> u64 {
        self.sent
    }
}
