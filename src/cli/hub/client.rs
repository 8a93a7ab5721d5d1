//! Requests to the hub: who asks, what is asked again, and what an answer means.

use std::time::Duration;

use qllama::{Error, Result};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::cache::home;
use super::name::Name;
use crate::out;

/// How often in a row a request is made that fails.
const ATTEMPTS: u32 = 5;
/// The first wait before a request is made again; it doubles.
const WAIT: Duration = Duration::from_millis(500);
/// The longest wait that a server may ask for.
const LONGEST: u64 = 300;

/// Who asks.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// Why a request failed.
pub enum Fault {
    /// It would fail again.
    Final(Error),
    /// It may not, after a wait.
    Passing(Error, Option<Duration>),
}

impl Client {
    /// By `HF_ENDPOINT`, and `HF_TOKEN` or the file that `hf auth login` writes.
    pub fn of_environment() -> Client {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let file = || {
            let path = set("HF_TOKEN_PATH").map(Into::into).or_else(|| Some(home().ok()?.join("token")))?;
            std::fs::read_to_string(path).ok()
        };
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(file);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A token is the hub's: where it sends to another host, nobody there sees it.
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .user_agent(concat!("qllama/", env!("CARGO_PKG_VERSION")))
            .build();
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Client {
            agent: config.into(),
            endpoint: endpoint.trim_end_matches('/').into(),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
        }
    }

    /// `HF_HUB_OFFLINE`.
    pub fn is_offline() -> bool {
        let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
        ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
    }

    /// The list of a revision's files: JSON.
    ///
    /// # Errors
    /// `E_HTTP`, `E_IO`.
    pub fn list(&self, name: &Name) -> Result<Vec<u8>> {
        let Name { repository, revision, .. } = name;
        let path = format!("api/models/{repository}/revision/{}?blobs=true", revision.replace('/', "%2F"));
        again(&mut || {
            // Where there is no network, nobody waits for it.
            let settle = |fault| match fault {
                Fault::Passing(error @ Error::Io { .. }, _) => Fault::Final(error),
                other => other,
            };
            let mut answer = self.ask(&path, 0, name).map_err(settle)?;
            let whole = answer.body_mut().with_config().limit(64 << 20).read_to_vec();
            whole.map_err(|e| Fault::Passing(self.broken(&e), None))
        })
    }

    /// A file of a commit, from a byte on.
    pub fn file(&self, name: &Name, commit: &str, file: &str, from: u64) -> std::result::Result<Response<Body>, Fault> {
        self.ask(&format!("{}/resolve/{commit}/{file}", name.repository), from, name)
    }

    fn ask(&self, path: &str, from: u64, name: &Name) -> std::result::Result<Response<Body>, Fault> {
        let mut request = self.agent.get(format!("{}/{path}", self.endpoint));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let answer = request.call().map_err(|e| Fault::Passing(self.broken(&e), None))?;
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            status => Err(self.refused(status, answer.headers(), name)),
        }
    }

    /// What stops a request on the way.
    pub fn broken(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Io { file: self.host().into(), reason: error.to_string() }
    }

    fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or(&*self.endpoint, |(_, host)| host)
    }

    fn refused(&self, status: u16, headers: &HeaderMap, name: &Name) -> Fault {
        let Name { repository, revision, .. } = name;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let with =
            if self.token.is_some() { "with this token" } else { "without a token (HF_TOKEN, or `hf auth login`)" };
        let reason = match (status, header("x-error-code")) {
            (_, Some("GatedRepo")) => format!("its owner lets in only those who ask: ask on its page; asked {with}"),
            (_, Some("RevisionNotFound")) => format!("there is no revision {revision}"),
            (401 | 403, _) => {
                format!("it is not there, or not for everybody (asked {with}), nor is there such a folder here")
            }
            (404, _) => format!("there is no such repository, file or revision ({revision}), nor such a folder here"),
            (429, _) => "too many requests".into(),
            (500.., _) => "the server failed".into(),
            (416, _) => "the file is shorter than what is here".into(),
            _ => "an answer that was not expected".into(),
        };
        let error = Error::Http { url: format!("{}/{repository}", self.host()), status, reason };
        let after = header("retry-after").and_then(|text| text.trim().parse::<u64>().ok());
        match status {
            408 | 429 | 500.. if after.is_none_or(|seconds| seconds <= LONGEST) => {
                Fault::Passing(error, after.map(Duration::from_secs))
            }
            _ => Fault::Final(error),
        }
    }
}

/// Waits before a request is made again, which failed `failures` times in a row.
///
/// # Errors
/// What it failed with, where it was often enough, or would fail again.
pub fn wait(fault: Fault, failures: u32) -> Result<()> {
    let (error, after) = match fault {
        Fault::Final(error) => return Err(error),
        Fault::Passing(error, _) if failures >= ATTEMPTS => return Err(error),
        Fault::Passing(error, after) => (error, after),
    };
    let pause = after.unwrap_or(WAIT * 2u32.pow(failures - 1));
    out::note(format_args!("qllama: {error}; asking again in {:.1} s", pause.as_secs_f64()));
    std::thread::sleep(pause);
    Ok(())
}

fn again<T>(ask: &mut dyn FnMut() -> std::result::Result<T, Fault>) -> Result<T> {
    let mut failures = 0;
    loop {
        match ask() {
            Ok(found) => return Ok(found),
            Err(fault) => {
                failures += 1;
                wait(fault, failures)?;
            }
        }
    }
}
