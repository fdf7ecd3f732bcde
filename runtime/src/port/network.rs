//! Networks: addresses that begin with the same bits.
//!
//! Owns how they are written, and what is in them. Pure. Called by the checks of the drivers that listen,
//! and for each request that a proxy may have passed on.

use std::net::IpAddr;
use std::str::FromStr;

/// A network, or an address alone: all of its bits count then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first address in it; never an IPv4 one in the clothes of IPv6.
    first: IpAddr,
    bits: u8,
}

/// Why a text is no network, and what to write.
#[derive(Debug, PartialEq, Eq)]
pub struct NoNetwork {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl Network {
    /// Whether an address is in it. An IPv4 network has no addresses of IPv6, nor the other way round.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && first(address, self.bits) == self.first
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let wrong = |message: String, help: String| NoNetwork { message, help };
        let none = || {
            wrong(
                format!("`{text}` is neither an address nor a network"),
                "write it like 10.0.0.7, or 10.0.0.0/8 for all addresses with the same first 8 bits"
                    .to_owned(),
            )
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| none())?;
        let address = written.to_canonical();
        let Some(bits) = bits else {
            let bits = width(address);
            return Ok(Self {
                first: address,
                bits,
            });
        };
        if bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(none());
        }
        if written != address {
            let message =
                format!("`{text}` is a network of IPv4 addresses, written as one of IPv6");
            return Err(wrong(message, format!("write it like {address}/32")));
        }
        let width = width(address);
        let bits = bits.parse().ok().filter(|bits| *bits <= width);
        let Some(bits) = bits else {
            let message = format!("`{text}` counts more bits than the {width} of an address");
            return Err(wrong(
                message,
                format!("write {address}, or a network of up to {width} bits"),
            ));
        };
        match first(address, bits) {
            first if first == address => Ok(Self { first, bits }),
            first => Err(wrong(
                format!("`{text}` is an address in a network, and does not say which is meant"),
                format!("write {first}/{bits} for the network, or {address} for the address alone"),
            )),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first address that begins with the same bits.
fn first(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_as_it_does() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("2001:db8::/127", "2001:db8::1", "2001:db8::2"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::"),
            ("::/0", "ffff::", "10.0.0.1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network}");
        }
    }

    #[test]
    fn what_is_no_network_says_what_to_write() {
        for (text, message, help) in [
            ("proxy", "neither", "10.0.0.0/8 for all"),
            ("10.0.0/8", "neither", "10.0.0.0/8"),
            ("10.0.0.0/", "neither", "10.0.0.0/8"),
            ("10.0.0.0/+8", "neither", "10.0.0.0/8"),
            ("10.0.0.0/255.0.0.0", "neither", "10.0.0.0/8"),
            ("10.0.0.0/33", "than the 32 of", "up to 32 bits"),
            ("10.0.0.0/999", "than the 32 of", "write 10.0.0.0,"),
            ("fd00::/129", "than the 128 of", "up to 128 bits"),
            ("10.1.2.3/8", "in a network", "10.0.0.0/8 for the network"),
            ("10.1.2.3/8", "in a network", "10.1.2.3 for the address"),
            ("fd00::1/64", "in a network", "fd00::/64 for the network"),
            ("10.0.0.1/0", "in a network", "0.0.0.0/0 for the network"),
            ("::ffff:10.0.0.0/104", "of IPv4", "like 10.0.0.0/32"),
        ] {
            let wrong = text.parse::<Network>().unwrap_err();
            assert!(wrong.message.contains(message), "{wrong:?}");
            assert!(wrong.help.contains(help), "{wrong:?}");
        }
    }
}
