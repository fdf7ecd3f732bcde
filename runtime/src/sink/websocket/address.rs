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
    /// The path stands for something else in the pipeline file, and is not shown (I7).
    pub(super) path_is_secret: bool,
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
        if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("the address has a space or a line break in it".into());
        }
        let url = url.split('#').next().unwrap_or_default();
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("the address cannot be read: {error}"))?;
        let (host, port, authorization) = authority(&uri)?;
        let mut path_and_query = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        // `wss://host?token=x` asks for `/?token=x`: RFC 6455, section 3.
        if !path_and_query.starts_with('/') {
            path_and_query.insert(0, '/');
        }
        Ok(Self {
            secure,
            host,
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            path_and_query,
            path_is_secret: false,
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

impl Address {
    /// The address as it may be shown where `written` is what stands in the pipeline file: a path that is
    /// not written there in these letters stands for something else.
    #[must_use]
    pub(super) fn written_as(mut self, written: Option<&String>) -> Self {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        self.path_is_secret = written.is_some_and(|written| {
            let written = written.split('?').next().unwrap_or_default();
            !written.ends_with(path)
        });
        self
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        let (path, query) = match self.path_and_query.split_once('?') {
            Some((path, _)) => (path, "?…"),
            None => (self.path_and_query.as_str(), ""),
        };
        let path = match self.path_is_secret && path != "/" {
            true => "/…",
            false => path,
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

    /// The proxy that the usual variables name for `address`, unless `NO_PROXY` exempts it. This machine
    /// is never reached through a proxy.
    pub(super) fn from_environment(
        address: &Address,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        if is_this_machine(&address.host) {
            return Ok(None);
        }
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

fn is_this_machine(host: &str) -> bool {
    let ip = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
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
    let (user, host_and_port) = match authority.as_str().rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, authority.as_str()),
    };
    // The library gives no port where the number is too large, so the text itself is looked at.
    let port = match host_and_port[authority.host().len()..].strip_prefix(':') {
        None => None,
        Some(port) => Some(
            port.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("the port is not a number from 1 to 65535")?,
        ),
    };
    let host = authority.host();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err("the address has no host".into());
    }
    let authorization = user.map(basic);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_whole_and_shown_without_secrets() {
        let address = Address::parse("wss://user:p%40ss@[::1]:8443/in?token=hunter2#top").unwrap();
        assert!(address.secure);
        assert_eq!((address.host.as_str(), address.port), ("::1", 8443));
        assert_eq!(address.path_and_query, "/in?token=hunter2");
        // user:p@ss
        assert_eq!(
            address.authorization.as_ref().unwrap(),
            "Basic dXNlcjpwQHNz"
        );
        let shown = format!("{address} {address:?} {:?}", address.authorization);
        assert_eq!(
            shown,
            "wss://[::1]:8443/in?… wss://[::1]:8443/in?… Some(Sensitive)"
        );
        let usual = Address::parse("ws://peer.example").unwrap();
        assert_eq!(usual.host_header(), "peer.example");
        assert_eq!(usual.host_and_port(), "peer.example:80");
        assert_eq!(usual.path_and_query, "/");
        let query = Address::parse("ws://peer.example?token=hunter2").unwrap();
        assert_eq!(query.path_and_query, "/?token=hunter2");
        assert_eq!(query.to_string(), "ws://peer.example/?…");
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for (url, words) in [
            ("peer.example:80", "no scheme"),
            ("https://hunter2.example", "wss://"),
            ("ftp://hunter2.example", "not a WebSocket address"),
            ("ws://", "cannot be read"),
            ("ws://:80/", "no host"),
            ("ws://peer:99999/hunter2", "65535"),
            ("ws://peer/hunter2 and more", "a space"),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn the_environment_names_a_proxy_and_exempts_hosts() {
        let proxy = |url: &str, set: &[(&str, &str)]| {
            let address = Address::parse(url).unwrap();
            let look = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            ProxyAddress::from_environment(&address, look)
                .unwrap()
                .map(|proxy| proxy.to_string())
        };
        let both = [("HTTP_PROXY", "one:1"), ("https_proxy", "http://two:2/")];
        assert_eq!(proxy("ws://peer", &both).as_deref(), Some("one:1"));
        assert_eq!(proxy("wss://peer", &both).as_deref(), Some("two:2"));
        assert_eq!(proxy("wss://peer", &[("HTTP_PROXY", "one:1")]), None);
        for here in [
            "ws://127.0.0.1:9400",
            "ws://[::1]:9400",
            "ws://LocalHost:9400",
        ] {
            assert_eq!(proxy(here, &both), None, "{here}");
        }
        for (url, exempt, goes) in [
            ("ws://peer.example", "peer.example", false),
            ("ws://a.peer.example", ".peer.example", false),
            ("ws://a.peer.example", "other, *.example", false),
            ("ws://notpeer.example", "peer.example", true),
            ("ws://peer.example:81", "peer.example:80", true),
            ("ws://peer.example:81", "peer.example:81", false),
            ("ws://[2001:db8::1]:81", "2001:db8::1", false),
            ("ws://peer.example", "*", false),
            ("ws://peer.example", "", true),
        ] {
            let set = [("HTTP_PROXY", "one:1"), ("NO_PROXY", exempt)];
            assert_eq!(proxy(url, &set).is_some(), goes, "{url} {exempt}");
        }
    }

    #[test]
    fn i7_a_path_that_stands_for_something_else_is_not_shown() {
        let shown = |written: &str| {
            let address = Address::parse("wss://h:1/services/hunter2?a=b").unwrap();
            address.written_as(Some(&written.to_owned())).to_string()
        };
        for written in [
            "wss://h:1/services/${TOKEN}?a=b",
            "${URL}",
            "wss://h:1/${REST}",
            "wss://h:1/services/${TOKEN}?a=/services/hunter2",
        ] {
            assert_eq!(shown(written), "wss://h:1/…?…", "{written}");
        }
        for written in [
            "wss://${HOST}/services/hunter2?a=${B}",
            "${HOST}/services/hunter2",
        ] {
            assert_eq!(shown(written), "wss://h:1/services/hunter2?…", "{written}");
        }
        let address = Address::parse("ws://h/services/x").unwrap();
        assert_eq!(address.written_as(None).to_string(), "ws://h/services/x");
    }
}
