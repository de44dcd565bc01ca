//! Which server, and as whom: what MLflow's own clients read from the environment.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

/// A tracking server and what it takes to log to it.
#[derive(Clone)]
pub struct Server {
    /// Its address, without credentials and without a slash at the end.
    pub url: String,
    /// The experiment; MLflow's default one if none is named.
    pub(super) experiment: Experiment,
    /// The run's name at the server; that of its folder if none is given.
    pub(super) run_name: Option<String>,
    /// An MLflow run to go on with, whatever the run's folder says.
    pub(super) run_id: Option<String>,
    /// The authorization header: a secret.
    pub(super) authorization: Option<String>,
    /// Certificates (PEM) that the server's may be signed with, in place of the usual ones.
    pub(super) certificates: Option<Vec<u8>>,
    /// Whether any certificate will do.
    pub(super) insecure: bool,
    /// How long it is waited for.
    pub patience: Patience,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Experiment {
    Default,
    Id(String),
    Name(String),
}

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// One request.
    pub request: Duration,
    /// Before the second attempt; doubled each time.
    pub first_pause: Duration,
    /// Between attempts at most.
    pub longest_pause: Duration,
    /// All that is left to do when training has ended, uploads not counted.
    pub last: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            request: Duration::from_secs(8),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            last: Duration::from_secs(15),
        }
    }
}

impl Server {
    /// From `MLFLOW_TRACKING_URI` and its companions as `variable` gives them (`MLFLOW_EXPERIMENT_NAME`,
    /// `MLFLOW_EXPERIMENT_ID`, `MLFLOW_RUN_NAME`, `MLFLOW_RUN_ID`, `MLFLOW_TRACKING_TOKEN`, `MLFLOW_TRACKING_USERNAME`,
    /// `MLFLOW_TRACKING_PASSWORD`, `MLFLOW_TRACKING_INSECURE_TLS`, `MLFLOW_TRACKING_SERVER_CERT_PATH`); `None` where no
    /// server is named.
    ///
    /// # Errors
    /// Why what is named cannot be logged to, without any secret in it.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Server>, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(uri) = variable("MLFLOW_TRACKING_URI") else { return Ok(None) };
        let (url, credentials) = address(&uri)?;
        let experiment = match (variable("MLFLOW_EXPERIMENT_ID"), variable("MLFLOW_EXPERIMENT_NAME")) {
            (Some(id), _) => Experiment::Id(id),
            (None, Some(name)) => Experiment::Name(name),
            (None, None) => Experiment::Default,
        };
        let password = || variable("MLFLOW_TRACKING_PASSWORD").unwrap_or_default();
        let basic =
            variable("MLFLOW_TRACKING_USERNAME").map(|user| basic(&user, &password())).or(credentials);
        let certificates = variable("MLFLOW_TRACKING_SERVER_CERT_PATH").map(|path| {
            std::fs::read(&path).map_err(|e| format!("MLFLOW_TRACKING_SERVER_CERT_PATH: {path}: {e}"))
        });
        Ok(Some(Server {
            url,
            experiment,
            run_name: variable("MLFLOW_RUN_NAME"),
            run_id: variable("MLFLOW_RUN_ID"),
            authorization: basic
                .or_else(|| variable("MLFLOW_TRACKING_TOKEN").map(|token| format!("Bearer {token}"))),
            certificates: certificates.transpose()?,
            insecure: variable("MLFLOW_TRACKING_INSECURE_TLS")
                .is_some_and(|v| ["true", "1"].contains(&&*v.to_lowercase())),
            patience: Patience::default(),
        }))
    }
}

/// The address without credentials, and these as a header. Only the scheme is ever shown of what cannot be used.
fn address(uri: &str) -> Result<(String, Option<String>), String> {
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri.split(':').next().unwrap_or_default(), ""));
    if !["http", "https"].contains(&&*scheme.to_lowercase()) || rest.is_empty() {
        return Err(format!(
            "MLFLOW_TRACKING_URI: a server is http://HOST:PORT or https://HOST:PORT, not `{scheme}...`; nothing is logged"
        ));
    }
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (credentials, host) =
        authority.rsplit_once('@').map_or((None, authority), |(c, host)| (Some(c), host));
    let header = credentials.map(|text| {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        basic(&decoded(user), &decoded(password))
    });
    Ok((format!("{scheme}://{host}{}", path.trim_end_matches('/')), header))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url)
            .field("experiment", &self.experiment)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(variables: &[(&str, &str)]) -> Result<Option<Server>, String> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Server::from_environment(&find)
    }

    #[test]
    fn nothing_named_is_nothing_logged() {
        assert!(server(&[]).unwrap().is_none());
        assert!(server(&[("MLFLOW_TRACKING_URI", "")]).unwrap().is_none());
    }

    #[test]
    fn addresses() {
        let check = |uri: &str, url: &str, header: Option<&str>| {
            let server = server(&[("MLFLOW_TRACKING_URI", uri)]).unwrap().unwrap();
            assert_eq!((&server.url[..], server.authorization.as_deref()), (url, header));
            assert!(!format!("{server:?}").contains("Basic"), "{server:?}");
        };
        check("http://localhost:5000", "http://localhost:5000", None);
        check("https://host/ml/", "https://host/ml", None);
        check("http://me:p%40ss@host:1/x", "http://host:1/x", Some("Basic bWU6cEBzcw=="));
    }

    #[test]
    fn other_schemes_are_refused_without_their_secrets() {
        for uri in ["postgresql://me:secret@host/db", "file:///tmp/secret", "secret", "http://", "databricks"]
        {
            let text = server(&[("MLFLOW_TRACKING_URI", uri)]).unwrap_err();
            assert!(
                text.contains("http://HOST:PORT") && (uri == "secret" || !text.contains("secret")),
                "{text}"
            );
        }
    }

    #[test]
    fn credentials_and_names_as_mlflow_has_them() {
        let uri = ("MLFLOW_TRACKING_URI", "http://h");
        let header =
            |more: &[(&str, &str)]| server(&[&[uri], more].concat()).unwrap().unwrap().authorization.unwrap();
        let (user, password) = (("MLFLOW_TRACKING_USERNAME", "me"), ("MLFLOW_TRACKING_PASSWORD", "pw"));
        let token = ("MLFLOW_TRACKING_TOKEN", "abc");
        assert_eq!(header(&[token]), "Bearer abc");
        assert_eq!(header(&[user, password]), "Basic bWU6cHc=");
        assert_eq!(header(&[user, password, token]), "Basic bWU6cHc=");
        let experiment =
            |more: &[(&str, &str)]| server(&[&[uri], more].concat()).unwrap().unwrap().experiment;
        let (id, name) = (("MLFLOW_EXPERIMENT_ID", "7"), ("MLFLOW_EXPERIMENT_NAME", "cats"));
        assert_eq!(experiment(&[]), Experiment::Default);
        assert_eq!(experiment(&[name]), Experiment::Name("cats".into()));
        assert_eq!(experiment(&[name, id]), Experiment::Id("7".into()));
    }
}
