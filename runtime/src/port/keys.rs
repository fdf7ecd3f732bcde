//! The keys of a port as they are written, and what is refused before the first record (I6).
//!
//! Owns those that every listener has. Pure. Called by the checks of the drivers that listen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::Deserialize;

use super::hosts::Hosts;
use super::network::{Network, NoNetwork};
use super::tls::TlsPlan;
use crate::driver::{Facts, Problem};

/// An address and a port.
pub type Address = SocketAddr;

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Whoever reaches the port.
    None,
    /// Who shows a credential.
    Required,
}

/// TLS of the port; the files are read again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsKeys {
    /// PEM file of the certificate and the chain behind it, relative to the pipeline file.
    cert: String,
    /// PEM file of its key, relative to the pipeline file.
    key: String,
}

/// The keys. (Not flattened into the configs: serde and JSON Schema then no longer know which keys are
/// unknown.)
pub struct Written<'a> {
    /// `listen`
    pub listen: &'a str,
    /// `auth`
    pub auth: Option<Auth>,
    /// `tls`
    pub tls: Option<&'a TlsKeys>,
    /// `insecure`
    pub insecure: bool,
    /// `hosts`
    pub hosts: &'a [String],
    /// `origins`
    pub origins: &'a [String],
    /// `trusted_proxies`
    pub trusted_proxies: &'a [String],
}

/// A checked port.
#[derive(Clone, Debug)]
pub struct PortPlan {
    /// Where to listen.
    pub listen: Address,
    /// Names by which it is reached.
    pub hosts: Hosts,
    /// Web origins whose pages may ask, beside the port's own.
    pub origins: Vec<String>,
    /// Proxies whose word counts on whom they speak for.
    pub trusted_proxies: Vec<Network>,
    /// Whether a credential has to be shown.
    pub asks: bool,
    /// The certificate that is shown.
    pub tls: Option<TlsPlan>,
}

impl PortPlan {
    /// `http` or `ws`, with an `s` where it is under TLS.
    pub fn scheme(&self, plain: &str) -> String {
        match self.tls {
            None => plain.to_owned(),
            Some(_) => format!("{plain}s"),
        }
    }
}

impl Written<'_> {
    /// What they mean; what is wrong goes to `problems`. `None` where the address is.
    pub fn check(&self, facts: &Facts, problems: &mut Vec<Problem>) -> Option<PortPlan> {
        let listen = address("/listen", self.listen)
            .map_err(|problem| problems.push(problem))
            .ok();
        let is_loopback = listen.is_some_and(|listen| listen.ip().is_loopback());
        let asks = match self.auth {
            None => !is_loopback,
            Some(auth) => auth == Auth::Required,
        };
        if let Some(listen) = listen.filter(|_| !is_loopback) {
            let has_tls = self.tls.is_some() || self.insecure;
            problems.extend(unsafe_elsewhere(listen, asks, has_tls));
        }
        let trusted_proxies = proxies(self.trusted_proxies, problems);
        for (index, host) in self.hosts.iter().enumerate() {
            problems.extend(wrong_host(index, host));
        }
        for (index, origin) in self.origins.iter().enumerate() {
            problems.extend(wrong_origin(index, origin));
        }
        Some(PortPlan {
            listen: listen?,
            hosts: Hosts {
                is_loopback,
                listed: self.hosts.to_vec(),
            },
            origins: self.origins.to_vec(),
            trusted_proxies,
            asks,
            tls: self.tls.map(|tls| TlsPlan {
                cert: facts.path(&tls.cert),
                key: facts.path(&tls.key),
            }),
        })
    }
}

/// An address and a port.
fn address(pointer: &str, text: &str) -> Result<Address, Problem> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        None => text.parse().ok(),
    };
    address.ok_or_else(|| {
        let port: Option<u16> = text.strip_prefix(':').unwrap_or(text).parse().ok();
        Problem::error(pointer, format!("`{text}` is not an address with a port"))
            .help(format!("write 127.0.0.1:{}", port.unwrap_or(9400)))
    })
}

/// An address that this machine alone reaches.
///
/// # Errors
/// It is none, or others reach it as well.
pub fn local_address(pointer: &str, text: &str) -> Result<Address, Problem> {
    let address = address(pointer, text)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    let message = format!(
        "{} is reached from other machines, and nobody is asked for a credential here",
        address.ip()
    );
    Err(Problem::error(pointer, message).help(format!(
        "listen on 127.0.0.1:{}; a proxy that asks for one can pass it on",
        address.port()
    )))
}

/// What an address that other machines reach may not do without: whoever reaches it could come in,
/// and whoever is on the way would read the secrets.
fn unsafe_elsewhere(listen: SocketAddr, asks: bool, has_tls: bool) -> Vec<Problem> {
    let (ip, port) = (listen.ip(), listen.port());
    let mut problems = Vec::new();
    if !asks {
        let message =
            format!("{ip} is reached from other machines, and nobody is asked for a credential");
        problems.push(Problem::error("/auth", message).help(format!(
            "say `auth: required`, or listen on 127.0.0.1:{port}"
        )));
    }
    if !has_tls {
        let message =
            format!("{ip} is reached from other machines, and secrets would go there unencrypted");
        problems.push(Problem::error("/listen", message).help(
            "give it `tls: { cert: FILE, key: FILE }`; or say `insecure: true` where a proxy before it has TLS",
        ));
    }
    problems
}

fn proxies(written: &[String], problems: &mut Vec<Problem>) -> Vec<Network> {
    let mut proxies = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match text.parse() {
            Ok(network) => proxies.push(network),
            Err(NoNetwork { message, help }) => {
                let pointer = format!("/trusted_proxies/{index}");
                problems.push(Problem::error(pointer, message).help(help));
            }
        }
    }
    proxies
}

fn wrong_host(index: usize, host: &str) -> Option<Problem> {
    let authority = host.parse::<http::uri::Authority>();
    // Patterns are none: `*.example.com` would be compared as it stands, and let nobody in.
    let fits = authority.is_ok_and(|authority| !authority.as_str().contains(['@', '*']));
    (!fits).then(|| {
        let message = format!("`{host}` is not a host name");
        Problem::error(format!("/hosts/{index}"), message)
            .help("write it as clients do, without a scheme: records.example.com")
    })
}

fn wrong_origin(index: usize, origin: &str) -> Option<Problem> {
    let uri: Option<http::Uri> = origin.parse().ok();
    // It is compared as it stands, so what no browser sends would let nobody in.
    let fits = uri.is_some_and(|uri| {
        let usual = match uri.scheme_str() {
            Some("https") => 443,
            Some("http") => 80,
            _ => return false,
        };
        uri.authority().is_some()
            && uri.port_u16() != Some(usual)
            && matches!(uri.path(), "" | "/")
            && !origin.ends_with('/')
            && !origin.contains('*')
    });
    (!fits).then(|| {
        Problem::error(
            format!("/origins/{index}"),
            format!("`{origin}` is not a web origin"),
        )
        .help("write scheme and host, and a port that is not the usual one, as browsers send them: https://dashboard.example.com")
    })
}

/// What is wrong with the path that a port serves beside its own, which are `taken`.
pub fn wrong_path(path: &str, example: &str, taken: &[&str]) -> Option<Problem> {
    let is_path =
        path.is_ascii() && path.starts_with('/') && !path.contains(['?', '#', ' ', '"', '<']);
    let wrong = match is_path {
        false => "is not a path",
        true if taken.contains(&path) => "is taken",
        true => return None,
    };
    let problem = Problem::error("/path", format!("`{path}` {wrong}"));
    Some(problem.help(format!("write it like {example}")))
}

/// A name as a path segment.
pub fn escape(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
