//! Addresses of streams, whose passwords nobody is to see.

use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::source::SourceError;

/// What stands for a secret.
const HIDDEN: &str = "***";

/// A URL with two faces: as it is used, and as it may be shown. Passwords, query strings and whatever came from the
/// environment are hidden in the second, which is also what `{}` and `{:?}` give.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: String,
    shown: String,
    /// What must not be shown, the longest first.
    secrets: Vec<String>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Address {
    /// A URL in which `${NAME}` stands for what `variable(NAME)` gives. A text that is nothing but `${NAME}` is replaced as
    /// it is; inside of a URL the value is percent-encoded, so that a password may hold any character.
    ///
    /// # Errors
    /// A variable that is not set, or a `${` without its `}`.
    pub fn new(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Address, SourceError> {
        let parts = parts(text)?;
        let alone = matches!(parts.as_slice(), [Part::Variable(_)]);
        let (mut url, mut shown, mut secrets) = (String::new(), String::new(), Vec::new());
        for part in &parts {
            match part {
                Part::Text(text) => {
                    url += text;
                    shown += text;
                }
                Part::Variable(name) => {
                    let value = variable(name).ok_or_else(|| {
                        SourceError::Wrong(format!("the environment variable {name} is not set"))
                    })?;
                    let encoded = utf8_percent_encode(&value, NON_ALPHANUMERIC).to_string();
                    url += if alone { &value } else { &encoded };
                    shown += HIDDEN;
                    secrets.extend([value, encoded]);
                }
            }
        }
        let pieces = Pieces::of(&url);
        secrets.extend(pieces.secrets());
        // Of a variable that is the whole address, what is not secret may be seen.
        let shown = if alone { pieces.shown() } else { Pieces::of(&shown).shown() };
        if alone {
            secrets.retain(|secret| !url.starts_with(secret.as_str()));
        }
        secrets.push(url.clone());
        secrets.retain(|secret| !secret.is_empty() && *secret != HIDDEN && *secret != shown);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Ok(Address { url, shown, secrets })
    }

    /// The URL with everything that is secret. Not to be printed, and not for command lines, which all users can read.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL without user name and password, and these, decoded.
    pub fn credentials(&self) -> (String, Option<(String, String)>) {
        let Pieces { scheme, user, password, host, rest, query } = Pieces::of(&self.url);
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let credentials = user.map(|user| (decoded(user), password.map(decoded).unwrap_or_default()));
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        (format!("{scheme}://{host}{rest}{query}"), credentials)
    }

    /// The text of another (an error, say) without this address's secrets.
    pub fn redact(&self, text: &str) -> String {
        let hide = |text: String, secret: &String| {
            text.replace(secret.as_str(), if *secret == self.url { &self.shown } else { HIDDEN })
        };
        self.secrets.iter().fold(text.to_owned(), hide)
    }
}

enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// Texts and the names of variables between them.
fn parts(text: &str) -> Result<Vec<Part<'_>>, SourceError> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, behind) = after
            .split_once('}')
            .ok_or_else(|| SourceError::Wrong("a ${ of the address lacks its }".into()))?;
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        parts.push(Part::Variable(name));
        rest = behind;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

/// `scheme://user:password@host/rest?query`; anything else is all scheme.
struct Pieces<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    password: Option<&'a str>,
    host: &'a str,
    rest: &'a str,
    query: Option<&'a str>,
}

impl<'a> Pieces<'a> {
    fn of(url: &'a str) -> Pieces<'a> {
        let Some((scheme, behind)) = url.split_once("://") else {
            return Pieces { scheme: url, user: None, password: None, host: "", rest: "", query: None };
        };
        let (authority, rest) = behind.split_at(behind.find(['/', '?', '#']).unwrap_or(behind.len()));
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').ok_or(login)) {
            Some(Ok((user, password))) => (Some(user), Some(password)),
            Some(Err(user)) => (Some(user), None),
            None => (None, None),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        Pieces { scheme, user, password, host, rest, query }
    }

    /// Passwords as they stand and decoded, a user name without a password (a token then), and the query's values.
    fn secrets(&self) -> Vec<String> {
        let lone = self.user.filter(|_| self.password.is_none());
        let values = self.query.into_iter().flat_map(|query| query.split('&'));
        let values = values.filter_map(|pair| pair.split_once('=')).map(|(_, value)| value);
        let all =
            self.password.into_iter().chain(lone).chain(self.query).chain(values.filter(|v| v.len() > 3));
        all.flat_map(|text| [text.to_owned(), percent_decode_str(text).decode_utf8_lossy().into_owned()])
            .collect()
    }

    fn shown(&self) -> String {
        if self.host.is_empty() && self.rest.is_empty() {
            return self.scheme.to_owned();
        }
        let login = match (self.user, self.password) {
            (Some(user), Some(_)) => format!("{user}:{HIDDEN}@"),
            (Some(_), None) => format!("{HIDDEN}@"),
            (None, _) => String::new(),
        };
        let query = if self.query.is_some() { format!("?{HIDDEN}") } else { String::new() };
        format!("{}://{login}{}{}{query}", self.scheme, self.host, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str, value: &str) -> Address {
        Address::new(text, |name| (name == "PW").then(|| value.to_owned())).unwrap()
    }

    #[test]
    fn what_is_shown_and_what_is_used() {
        let check = |text: &str, url: &str, shown: &str| {
            let address = address(text, "s3:c/r@t");
            assert_eq!((address.url(), address.to_string().as_str()), (url, shown));
            assert_eq!(format!("{address:?}"), shown);
        };
        check("http://host:81/video", "http://host:81/video", "http://host:81/video");
        check("rtsp://me:pw@host/1?key=abcd", "rtsp://me:pw@host/1?key=abcd", "rtsp://me:***@host/1?***");
        check("rtsp://token@host", "rtsp://token@host", "rtsp://***@host");
        check("rtsp://me:${PW}@host/", "rtsp://me:s3%3Ac%2Fr%40t@host/", "rtsp://me:***@host/");
        check("http://host/${PW}/video", "http://host/s3%3Ac%2Fr%40t/video", "http://host/***/video");
        check("http://host?a=${PW}", "http://host?a=s3%3Ac%2Fr%40t", "http://host?***");
        let whole = address("${PW}", "rtsp://me:geheim@host/1");
        assert_eq!(
            (whole.url(), whole.to_string().as_str()),
            ("rtsp://me:geheim@host/1", "rtsp://me:***@host/1")
        );
        assert_eq!(
            whole.redact("401 for rtsp://me:geheim@host/1: geheim"),
            "401 for rtsp://me:***@host/1: ***"
        );
    }

    #[test]
    fn credentials_are_decoded() {
        let (url, credentials) = address("http://me:${PW}@host/v?a=1", "p@ß").credentials();
        assert_eq!(url, "http://host/v?a=1");
        assert_eq!(credentials, Some(("me".into(), "p@ß".into())));
        assert_eq!(address("http://host/", "").credentials(), ("http://host/".into(), None));
    }

    #[test]
    fn wrong_variables_are_named() {
        let wrong = |text| Address::new(text, |_| None).unwrap_err().to_string();
        assert_eq!(wrong("rtsp://a:${CAM_PW}@b"), "the environment variable CAM_PW is not set");
        assert_eq!(wrong("rtsp://a:${CAM_PW@b"), "a ${ of the address lacks its }");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the password is, it is in no text.
        #[test]
        fn no_secret_is_shown(secret in "[!-~]{5,20}", from_environment: bool) {
            prop_assume!(!secret.contains("${") && !secret.contains("***"));
            let typed = utf8_percent_encode(&secret, NON_ALPHANUMERIC).to_string();
            let text = if from_environment { "rtsp://me:${PW}@host/1".into() } else { format!("rtsp://me:{typed}@host/1") };
            let address = address(&text, &secret);
            let said = address.redact(&format!("{}: no route; {secret} and {typed}", address.url()));
            for secret in [&secret, &typed] {
                prop_assert!(!said.contains(secret.as_str()), "{said}");
                prop_assert!(!address.to_string().contains(secret.as_str()));
            }
        }

        #[test]
        fn any_text_is_an_address_or_an_error(text in ".{0,60}") {
            let _ = Address::new(&text, |_| Some("value".into())).map(|address| address.credentials());
        }
    }
}
