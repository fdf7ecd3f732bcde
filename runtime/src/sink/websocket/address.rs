//! Addresses: of the peer, and of a proxy on the way to it.
//!
//! Owns their parsing and the one way in which they are shown: without credentials and without the
//! query, which may hold a token (I7). Pure, but for [`ProxyAddress::from_environment`], which is
//! given a way to look variables up.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::header::HeaderValue;

/// Where the peer is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// TLS or not.
    pub(super) secure: bool,
    /// Name or address, without brackets.
    pub(super) host: String,
    /// Port, the scheme's own where none is written.
    pub(super) port: u16,
    /// Path and query as the handshake asks for them.
    pub(super) path_and_query: String,
    /// `Authorization` made of `user:password@`.
    pub(super) authorization: Option<HeaderValue>,
}

impl Address {
    /// Reads `ws://…` or `wss://…`; the message of an error never shows more than the scheme.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, _) = url
            .split_once("://")
            .ok_or("the address has no scheme: write it like wss://host/path")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            "http" => return Err("`http://` is written `ws://` here".into()),
            "https" => return Err("`https://` is written `wss://` here".into()),
            other => return Err(format!("`{other}://` is not a WebSocket address")),
        };
        let url = url.split('#').next().unwrap_or_default();
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("the address cannot be read: {error}"))?;
        let (host, port, authorization) = authority(&uri)?;
        let path_and_query = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        Ok(Self {
            secure,
            host,
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            path_and_query,
            authorization,
        })
    }

    /// The `Host` header: the port only where it is not the scheme's own.
    pub(super) fn host_header(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual {
            bracketed(&self.host)
        } else {
            self.host_and_port()
        }
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        let (path, query) = match self.path_and_query.split_once('?') {
            Some((path, _)) => (path, "?…"),
            None => (self.path_and_query.as_str(), ""),
        };
        write!(f, "{scheme}://{}{path}{query}", self.host_header())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An HTTP proxy that tunnels by CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ProxyAddress {
    /// Name or address, without brackets.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
    /// `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

impl ProxyAddress {
    /// Reads `http://user:password@host:port`, or the same without the scheme, as variables have it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let with_scheme = match url.split_once("://") {
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => url.to_owned(),
            Some((scheme, _)) => {
                return Err(format!(
                    "a proxy is reached by http://, not by {scheme}://; \
                     what goes through it is encrypted all the same with wss://"
                ));
            }
            None => format!("http://{url}"),
        };
        let uri: Uri = with_scheme
            .parse()
            .map_err(|error| format!("the proxy's address cannot be read: {error}"))?;
        let (host, port, authorization) = authority(&uri)?;
        Ok(Self {
            host,
            port: port.unwrap_or(80),
            authorization,
        })
    }

    /// The proxy that the usual variables name for `address`, unless `NO_PROXY` exempts it.
    pub(super) fn from_environment(
        address: &Address,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let look = |name: &str| {
            variable(&name.to_lowercase())
                .or_else(|| variable(name))
                .filter(|value| !value.is_empty())
        };
        let name = if address.secure {
            "HTTPS_PROXY"
        } else {
            "HTTP_PROXY"
        };
        let Some(url) = look(name) else {
            return Ok(None);
        };
        if look("NO_PROXY").is_some_and(|exempt| is_exempt(&exempt, address)) {
            return Ok(None);
        }
        let parsed = Self::parse(&url).map_err(|wrong| format!("{name}: {wrong}"))?;
        Ok(Some(parsed))
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether `NO_PROXY` has the host: `*`, a name, a suffix of it, or either with a port.
fn is_exempt(exempt: &str, address: &Address) -> bool {
    let host = address.host.to_ascii_lowercase();
    exempt.split(',').map(str::trim).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let entry = match entry.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => {
                if port.parse() != Ok(address.port) {
                    return false;
                }
                name.to_owned()
            }
            _ => entry,
        };
        let name = entry.trim_start_matches("*.").trim_start_matches('.');
        let name = name.trim_start_matches('[').trim_end_matches(']');
        entry == "*" || (!name.is_empty() && (host == name || host.ends_with(&format!(".{name}"))))
    })
}

/// Host, port and basic credentials of an address.
fn authority(uri: &Uri) -> Result<(String, Option<u16>, Option<HeaderValue>), String> {
    let authority = uri.authority().ok_or("the address has no host")?;
    let host = authority.host();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("the address has no host".into());
    }
    let port = match authority.port() {
        None => None,
        Some(port) => Some(
            port.as_str()
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("the port is not a number from 1 to 65535")?,
        ),
    };
    let authorization = authority
        .as_str()
        .rsplit_once('@')
        .map(|(user, _)| basic(user));
    Ok((host.to_owned(), port, authorization.transpose()?))
}

/// `user:password` of an address (percent-encoded there) as basic credentials.
fn basic(user: &str) -> Result<HeaderValue, String> {
    let mut decoded = Vec::with_capacity(user.len());
    let mut bytes = user.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => decoded.push((high * 16 + low) as u8),
            _ => return Err("the user part of the address is not percent-encoded".into()),
        }
    }
    if !decoded.contains(&b':') {
        decoded.push(b':');
    }
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(decoded)))
        .map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
