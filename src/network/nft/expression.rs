//! What a rule is made of: loads into registers, comparisons, and statements. The constructors of `Rule` are the few
//! phrases that orchd's rules are written in.

use super::Verdict;
use std::net::{Ipv4Addr, SocketAddrV4};

/// The kernel's 4-byte registers; a key of several parts takes consecutive ones.
pub type Register = u32;
pub const REGISTER_0: Register = libc::NFT_REG32_00 as Register;

const IP_SOURCE: u32 = 12;
const IP_DESTINATION: u32 = 16;
const TRANSPORT_DESTINATION: u32 = 2;
/// IP_CT_NEW as a bit of the connection's state.
const STATE_NEW: u32 = 8;

/// One expression; registers are numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Bytes of the IPv4 header.
    Network {
        offset: u32,
        len: u32,
        to: Register,
    },
    /// Bytes of the transport header.
    Transport {
        offset: u32,
        len: u32,
        to: Register,
    },
    /// A property of the packet (NFT_META_*).
    Meta {
        key: u32,
        to: Register,
    },
    SetMark {
        from: Register,
    },
    /// A property of the connection (NFT_CT_*).
    Connection {
        key: u32,
        to: Register,
    },
    /// What kind of address (RTN_*) the routing tables say the packet's is.
    AddressType {
        of: FibAddress,
        to: Register,
    },
    /// Goes on only if the register's first bytes are (or are not) these.
    Compare {
        register: Register,
        equal: bool,
        bytes: Vec<u8>,
    },
    /// register = (register & mask) ^ xor
    Bitwise {
        register: Register,
        mask: [u8; 4],
        xor: [u8; 4],
    },
    Load {
        register: Register,
        bytes: Vec<u8>,
    },
    /// Goes on only if the key is in the set.
    InSet {
        set: String,
        key: Register,
    },
    /// Does what the map says for the key; goes on if that says nothing.
    VerdictMap {
        map: String,
        key: Register,
    },
    /// A random number below the modulus.
    Random {
        modulus: u32,
        to: Register,
    },
    /// Adds the key to the set, or refreshes it.
    UpdateSet {
        set: String,
        key: Register,
    },
    DestinationNat {
        address: Register,
        port: Register,
    },
    SourceNat {
        address: Register,
    },
    Masquerade,
    /// A TCP reset.
    RejectWithReset,
    /// An ICMP destination unreachable of this code.
    RejectWithIcmp {
        code: u8,
    },
    Verdict(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibAddress {
    Source,
    Destination,
}

/// A rule: expressions from left to right, until one does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule(pub Vec<Expression>);

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    fn and(mut self, expressions: impl IntoIterator<Item = Expression>) -> Self {
        self.0.extend(expressions);
        self
    }

    fn address(self, offset: u32, network: Ipv4Addr, prefix: u8, equal: bool) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0).to_be_bytes();
        let load = [Expression::Network { offset, len: 4, to: 0 }];
        let masked = (prefix < 32).then_some(Expression::Bitwise { register: 0, mask, xor: [0; 4] });
        let bits = Ipv4Addr::from(u32::from_be_bytes(mask) & network.to_bits());
        self.and(load).and(masked).and([Expression::Compare { register: 0, equal, bytes: bits.octets().to_vec() }])
    }

    /// `ip saddr network/prefix`
    pub fn source(self, network: Ipv4Addr, prefix: u8) -> Self {
        self.address(IP_SOURCE, network, prefix, true)
    }

    /// `ip saddr != network/prefix`
    pub fn source_not(self, network: Ipv4Addr, prefix: u8) -> Self {
        self.address(IP_SOURCE, network, prefix, false)
    }

    /// `ip daddr network/prefix`
    pub fn destination(self, network: Ipv4Addr, prefix: u8) -> Self {
        self.address(IP_DESTINATION, network, prefix, true)
    }

    /// `ip daddr != network/prefix`
    pub fn destination_not(self, network: Ipv4Addr, prefix: u8) -> Self {
        self.address(IP_DESTINATION, network, prefix, false)
    }

    /// `iifname "prefix*"`
    pub fn arrives_on(self, prefix: &str) -> Self {
        let bytes = prefix.as_bytes().to_vec();
        self.and([Expression::Meta { key: libc::NFT_META_IIFNAME as u32, to: 0 }, Expression::Compare { register: 0, equal: true, bytes }])
    }

    /// `meta l4proto protocol`
    pub fn protocol(self, protocol: u8) -> Self {
        let load = Expression::Meta { key: libc::NFT_META_L4PROTO as u32, to: 0 };
        self.and([load, Expression::Compare { register: 0, equal: true, bytes: vec![protocol] }])
    }

    /// `ct state new`
    pub fn new_connection(self) -> Self {
        self.and([
            Expression::Connection { key: libc::NFT_CT_STATE as u32, to: 0 },
            Expression::Bitwise { register: 0, mask: STATE_NEW.to_ne_bytes(), xor: [0; 4] },
            Expression::Compare { register: 0, equal: false, bytes: vec![0; 4] },
        ])
    }

    /// `fib saddr|daddr type local`
    pub fn local(self, of: FibAddress) -> Self {
        let bytes = u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec();
        self.and([Expression::AddressType { of, to: 0 }, Expression::Compare { register: 0, equal: true, bytes }])
    }

    /// `mark and bit == 0` or `!= 0`
    pub fn mark_has(self, bit: u32, has: bool) -> Self {
        self.and([
            Expression::Meta { key: libc::NFT_META_MARK as u32, to: 0 },
            Expression::Bitwise { register: 0, mask: bit.to_ne_bytes(), xor: [0; 4] },
            Expression::Compare { register: 0, equal: !has, bytes: vec![0; 4] },
        ])
    }

    /// Sets or clears a bit of the packet's mark.
    pub fn mark(self, bit: u32, on: bool) -> Self {
        let xor = if on { bit } else { 0 };
        self.and([
            Expression::Meta { key: libc::NFT_META_MARK as u32, to: 0 },
            Expression::Bitwise { register: 0, mask: (!bit).to_ne_bytes(), xor: xor.to_ne_bytes() },
            Expression::SetMark { from: 0 },
        ])
    }

    /// `ip daddr . meta l4proto . th dport vmap @map`
    pub fn by_address_protocol_port(self, map: &str) -> Self {
        self.and([
            Expression::Network { offset: IP_DESTINATION, len: 4, to: 0 },
            Expression::Meta { key: libc::NFT_META_L4PROTO as u32, to: 1 },
            Expression::Transport { offset: TRANSPORT_DESTINATION, len: 2, to: 2 },
            Expression::VerdictMap { map: map.to_owned(), key: 0 },
        ])
    }

    /// `meta l4proto . th dport vmap @map`
    pub fn by_protocol_port(self, map: &str) -> Self {
        self.and([
            Expression::Meta { key: libc::NFT_META_L4PROTO as u32, to: 0 },
            Expression::Transport { offset: TRANSPORT_DESTINATION, len: 2, to: 1 },
            Expression::VerdictMap { map: map.to_owned(), key: 0 },
        ])
    }

    /// `ip saddr @set`
    pub fn source_in(self, set: &str) -> Self {
        self.and([Expression::Network { offset: IP_SOURCE, len: 4, to: 0 }, Expression::InSet { set: set.to_owned(), key: 0 }])
    }

    /// `ip daddr @set`
    pub fn destination_in(self, set: &str) -> Self {
        self.and([Expression::Network { offset: IP_DESTINATION, len: 4, to: 0 }, Expression::InSet { set: set.to_owned(), key: 0 }])
    }

    /// `update @set { ip saddr }`
    pub fn remember_source(self, set: &str) -> Self {
        self.and([Expression::Network { offset: IP_SOURCE, len: 4, to: 0 }, Expression::UpdateSet { set: set.to_owned(), key: 0 }])
    }

    /// `numgen random mod modulus vmap @map`
    pub fn at_random(self, modulus: u32, map: &str) -> Self {
        self.and([Expression::Random { modulus, to: 0 }, Expression::VerdictMap { map: map.to_owned(), key: 0 }])
    }

    /// `dnat to address:port`
    pub fn translate_to(self, to: SocketAddrV4) -> Self {
        self.and([
            Expression::Load { register: 0, bytes: to.ip().octets().to_vec() },
            Expression::Load { register: 1, bytes: to.port().to_be_bytes().to_vec() },
            Expression::DestinationNat { address: 0, port: 1 },
        ])
    }

    /// `snat to address fully-random`
    pub fn send_from(self, address: Ipv4Addr) -> Self {
        self.and([Expression::Load { register: 0, bytes: address.octets().to_vec() }, Expression::SourceNat { address: 0 }])
    }

    /// `masquerade fully-random`
    pub fn masquerade(self) -> Self {
        self.and([Expression::Masquerade])
    }

    pub fn reset(self) -> Self {
        self.and([Expression::RejectWithReset])
    }

    pub fn unreachable(self, code: u8) -> Self {
        self.and([Expression::RejectWithIcmp { code }])
    }

    pub fn verdict(self, verdict: Verdict) -> Self {
        self.and([Expression::Verdict(verdict)])
    }

    pub fn jump(self, chain: &str) -> Self {
        self.verdict(Verdict::Jump(chain.to_owned()))
    }

    pub fn goto(self, chain: &str) -> Self {
        self.verdict(Verdict::Goto(chain.to_owned()))
    }
}
