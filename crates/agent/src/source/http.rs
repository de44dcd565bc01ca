//! Streams and pictures over HTTP.

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::{Agent, Body, http::Response};

use super::feed::{End, Feed};
use super::multipart::Multipart;
use super::{SourceError, ffmpeg};
use crate::address::Address;
use crate::frame::PICTURE_BYTES;

/// For connecting, for an answer, and between one piece of a stream and the next.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads what the address gives, once.
pub(super) fn read(address: &Address, feed: &mut Feed) -> Result<End, SourceError> {
    let agent = agent();
    feed.on_close({
        let agent = agent.clone();
        move || agent.shutdown()
    });
    let failed = |error: SourceError| {
        SourceError::Failed(format!("{address}: {}", address.redact(&error.to_string())))
    };
    let mut answer = answer(&agent, address).map_err(failed)?;
    let kind =
        answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Where the answer says how long it is, its end is the stream's end; else it may have been cut.
    let framed =
        ["content-length", "transfer-encoding"].iter().any(|name| answer.headers().contains_key(*name));
    let ended = |end: End| if framed { End::Over } else { end };
    if let Some(parts) = Multipart::new(&kind) {
        multipart(parts, answer.body_mut().as_reader(), feed).map(ended).map_err(failed)
    } else if essence.starts_with("image/") {
        picture(answer.body_mut().as_reader(), feed).map_err(failed)
    } else if essence.ends_with("mjpeg") || essence.ends_with("motion-jpeg") || essence == "video/x-jpeg" {
        feed.pictures(answer.body_mut().as_reader()).map(ended).map_err(failed)
    } else if essence.starts_with("text/") || essence.ends_with("json") {
        Err(failed(SourceError::failed(format!(
            "it answers with {essence}, which is neither pictures nor a video"
        ))))
    } else {
        drop(answer);
        ffmpeg::remote(address, feed).map(|_| End::Over)
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .http_status_as_error(false)
        .user_agent(concat!("espalier/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}

fn answer(agent: &Agent, address: &Address) -> Result<Response<Body>, SourceError> {
    let (url, credentials) = address.credentials();
    let mut request = agent.get(url);
    if let Some((user, password)) = credentials {
        request = request
            .header("authorization", format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    }
    let answer = request.call().map_err(SourceError::failed)?;
    match answer.status().as_u16() {
        200..300 => Ok(answer),
        401 => Err(SourceError::failed(
            "it wants a user name and a password, or others (status 401): http://NAME:${VARIABLE}@HOST/... sends them by the \
             method Basic",
        )),
        status => Err(SourceError::failed(format!("it answers with status {status}"))),
    }
}

/// The parts of a stream, up to its closing boundary.
fn multipart(mut parts: Multipart, mut reader: impl Read, feed: &mut Feed) -> Result<End, SourceError> {
    let result = feed.chunks(&mut reader, |feed, bytes| {
        parts.push(bytes);
        std::iter::from_fn(|| parts.part()).all(|part| feed.frame(None, part)) && !parts.is_closed()
    });
    if matches!(result, Ok(End::Cut) | Err(_))
        && let Some(rest) = parts.end()
    {
        feed.frame(None, rest);
    }
    result
}

/// One picture.
fn picture(reader: impl Read, feed: &mut Feed) -> Result<End, SourceError> {
    let mut bytes = Vec::new();
    reader.take(PICTURE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(SourceError::failed)?;
    if bytes.len() > PICTURE_BYTES {
        return Err(SourceError::failed("the picture is longer than 64 MiB"));
    }
    feed.frame(None, Ok(bytes));
    Ok(End::Over)
}
