//! IP addresses and CIDRs in objects, with apimachinery's error texts.

use crate::meta::{FieldErrors, FieldPath};
use std::net::{IpAddr, Ipv6Addr};

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Parses an address as the API always has: leading zeros in IPv4 are taken as decimal.
pub fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 || parts.iter().any(|p| p.is_empty() || p.len() > 9 || !p.bytes().all(|c| c.is_ascii_digit())) {
        return None;
    }
    let octets: Option<Vec<u8>> = parts.iter().map(|p| p.parse().ok()).collect();
    let octets: [u8; 4] = octets?.try_into().ok()?;
    Some(IpAddr::from(octets))
}

/// An address: any that parses.
pub fn ip(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    if parse(text).is_none() {
        errors.invalid(path, text, NOT_AN_IP);
    }
}

/// A CIDR: any that parses.
pub fn cidr(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    let parsed = text.split_once('/').and_then(|(ip, bits)| {
        let ip = parse(ip)?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some(())
    });
    if parsed.is_none() {
        errors.invalid(path, text, NOT_A_CIDR);
    }
}

/// An address in the one form that may be written for it.
pub fn canonical_ip(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    match parse(text) {
        None => errors.invalid(path, text, NOT_AN_IP),
        Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => errors.invalid(path, text, "must not be an IPv4-mapped IPv6 address"),
        Some(_) if text.parse::<IpAddr>().is_err() => errors.invalid(path, text, "must not have leading 0s"),
        Some(ip) if ip.to_string() != text => errors.invalid(path, text, format!("must be in canonical form (\"{ip}\")")),
        Some(_) => {}
    }
}

/// An address that traffic may be sent to: not unspecified, loopback or link-local.
pub fn endpoint(path: &FieldPath, text: &str, errors: &mut FieldErrors) {
    let Some(ip) = parse(text) else {
        errors.invalid(path, text, "must be a valid IP address");
        return;
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => prefix(&v6, 0xffc0) == 0xfe80,
    } {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => prefix(&v6, 0xff0f) == 0xff02,
    } {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn prefix(ip: &Ipv6Addr, mask: u16) -> u16 {
    ip.segments()[0] & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(check: fn(&FieldPath, &str, &mut FieldErrors), text: &str) -> usize {
        let mut errors = FieldErrors::default();
        check(&FieldPath::new("ip"), text, &mut errors);
        errors.0.len()
    }

    #[test]
    fn addresses_are_told_apart() {
        for (check, text, count) in [
            (ip as fn(&FieldPath, &str, &mut FieldErrors), "10.0.0.1", 0),
            (ip, "010.0.0.1", 0),
            (ip, "10.0.0", 1),
            (ip, "10.0.0.256", 1),
            (cidr, "10.0.0.0/24", 0),
            (cidr, "10.0.0.0/33", 1),
            (cidr, "fd00::/64", 0),
            (endpoint, "10.0.0.1", 0),
            (endpoint, "127.0.0.1", 1),
            (endpoint, "0.0.0.0", 1),
            (endpoint, "169.254.1.1", 1),
            (endpoint, "fe80::1", 1),
            (endpoint, "224.0.0.5", 1),
            (canonical_ip, "010.0.0.1", 1),
            (canonical_ip, "FD00::1", 1),
            (canonical_ip, "fd00::1", 0),
        ] {
            assert_eq!(complaints(check, text), count, "{text}");
        }
    }
}
