//! Changes as nfnetlink messages (linux/netfilter/nf_tables.h; numbers without a name in libc are its enums').

use super::expression::REGISTER_0;
use super::{ChainKind, Change, Expression, FibAddress, Hook, HookPoint, Key, KeyType, Rule, Set, SetKind, Verdict};
use crate::network::netlink::Message;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const CREATE_APPEND: u16 = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;
const LIST_ELEMENT: u16 = 1;
/// An attribute holds less than 64 KiB; a list of elements is cut into messages well below that.
const LIST_BYTES: usize = 32 << 10;
/// `NFT_DATA_VERDICT`: what a map to verdicts is declared to hold.
const DATA_VERDICT: u32 = 0xffff_ff00;
/// The type of plain numbers, for `nft list`.
const TYPE_INTEGER: u32 = 4;
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
/// Each part of a concatenated type takes so many bits.
const TYPE_BITS: u32 = 6;
/// NF_NAT_RANGE_PROTO_RANDOM_FULLY
const FULLY_RANDOM: u32 = 1 << 4;

/// The messages of a transaction, and for each the index of the change that it came from.
pub struct Encoded {
    pub messages: Vec<Message>,
    pub changes: Vec<usize>,
}

/// Encodes changes between a begin and an end of a batch.
pub fn transaction(table: &str, changes: &[Change]) -> Encoded {
    let mut writer = Writer { table, messages: vec![boundary(libc::NFNL_MSG_BATCH_BEGIN as u16)], sets: 0 };
    let mut origin = vec![usize::MAX];
    for (index, change) in changes.iter().enumerate() {
        writer.change(change);
        origin.resize(writer.messages.len(), index);
    }
    writer.messages.push(boundary(libc::NFNL_MSG_BATCH_END as u16));
    Encoded { messages: writer.messages, changes: origin }
}

fn boundary(kind: u16) -> Message {
    let mut message = Message::new(kind, 0);
    let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    message.header(&[libc::AF_UNSPEC as u8, 0, high, low]);
    message
}

struct Writer<'a> {
    table: &'a str,
    messages: Vec<Message>,
    /// Sets made so far: the kernel wants each to have a number of its own within the transaction.
    sets: u32,
}

impl Writer<'_> {
    fn message(&self, kind: libc::c_int, flags: u16) -> Message {
        let mut message = Message::new((libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | kind as u16, flags);
        message.header(&[libc::NFPROTO_IPV4 as u8, 0, 0, 0]);
        message.attribute_str(1, self.table);
        message
    }

    fn named(&mut self, kind: libc::c_int, flags: u16, attribute: u16, name: &str) {
        let mut message = self.message(kind, flags);
        message.attribute_str(attribute, name);
        self.messages.push(message);
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::AddTable => self.messages.push(self.message(libc::NFT_MSG_NEWTABLE, CREATE)),
            Change::DeleteTable => self.messages.push(self.message(libc::NFT_MSG_DELTABLE, 0)),
            Change::AddChain { chain, hook } => self.add_chain(chain, hook.as_ref()),
            Change::FlushChain { chain } => self.named(libc::NFT_MSG_DELRULE, 0, 2, chain),
            Change::DeleteChain { chain } => self.named(libc::NFT_MSG_DELCHAIN, 0, 3, chain),
            Change::AddRule { chain, rule } => self.add_rule(chain, rule),
            Change::AddSet { name, set } => self.add_set(name, set),
            Change::DeleteSet { name } => self.named(libc::NFT_MSG_DELSET, 0, 2, name),
            Change::AddElements { set, elements } => {
                let elements = elements.iter().map(|(key, verdict)| (key, verdict.as_ref()));
                self.elements(libc::NFT_MSG_NEWSETELEM, CREATE, set, elements);
            }
            Change::DeleteElements { set, keys } => {
                self.elements(libc::NFT_MSG_DELSETELEM, 0, set, keys.iter().map(|key| (key, None)));
            }
        }
    }

    fn add_chain(&mut self, chain: &str, hook: Option<&Hook>) {
        let mut message = self.message(libc::NFT_MSG_NEWCHAIN, CREATE);
        message.attribute_str(3, chain);
        if let Some(hook) = hook {
            message.nest(4, |m| {
                m.attribute_u32(1, hook_number(hook.hook));
                m.attribute_u32(2, hook.priority as u32);
            });
            message.attribute_str(7, if hook.kind == ChainKind::Nat { "nat" } else { "filter" });
        }
        self.messages.push(message);
    }

    fn add_set(&mut self, name: &str, set: &Set) {
        let mut message = self.message(libc::NFT_MSG_NEWSET, CREATE);
        let (kind, len) = key_type(set.key);
        let flags = match &set.kind {
            SetKind::Plain => 0,
            SetKind::VerdictMap => libc::NFT_SET_MAP,
            SetKind::Numbered(_) => libc::NFT_SET_MAP | libc::NFT_SET_CONSTANT,
            SetKind::Dynamic { .. } => libc::NFT_SET_TIMEOUT | libc::NFT_SET_EVAL,
        };
        message.attribute_str(2, name);
        message.attribute_u32(3, flags as u32);
        message.attribute_u32(4, kind);
        message.attribute_u32(5, len);
        if matches!(set.kind, SetKind::VerdictMap | SetKind::Numbered(_)) {
            message.attribute_u32(6, DATA_VERDICT);
            message.attribute_u32(7, 0);
        }
        if let SetKind::Numbered(verdicts) = &set.kind {
            message.nest(9, |m| m.attribute_u32(1, verdicts.len() as u32));
        }
        self.sets += 1;
        message.attribute_u32(10, self.sets);
        if let SetKind::Dynamic { timeout_ms } = set.kind {
            message.attribute_u64(11, timeout_ms);
        }
        self.messages.push(message);
        if let SetKind::Numbered(verdicts) = &set.kind {
            let keys: Vec<Key> = (0..verdicts.len() as u32).map(|number| number.to_ne_bytes().to_vec()).collect();
            self.elements(libc::NFT_MSG_NEWSETELEM, CREATE, name, keys.iter().zip(verdicts.iter().map(Some)));
        }
    }

    fn elements<'e>(&mut self, kind: libc::c_int, flags: u16, set: &str, elements: impl Iterator<Item = (&'e Key, Option<&'e Verdict>)>) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let mut message = self.message(kind, flags);
            message.attribute_str(2, set);
            message.nest(3, |list| {
                while list.len() < LIST_BYTES
                    && let Some((key, verdict)) = elements.next()
                {
                    list.nest(LIST_ELEMENT, |m| {
                        m.nest(1, |m| m.attribute(1, key));
                        if let Some(verdict) = verdict {
                            m.nest(2, |m| write_verdict(m, verdict));
                        }
                    });
                }
            });
            self.messages.push(message);
        }
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let mut message = self.message(libc::NFT_MSG_NEWRULE, CREATE_APPEND);
        message.attribute_str(2, chain);
        message.nest(4, |list| {
            for expression in &rule.0 {
                list.nest(LIST_ELEMENT, |m| write_expression(m, expression));
            }
        });
        self.messages.push(message);
    }
}

fn hook_number(hook: HookPoint) -> u32 {
    let number = match hook {
        HookPoint::Prerouting => libc::NF_INET_PRE_ROUTING,
        HookPoint::Input => libc::NF_INET_LOCAL_IN,
        HookPoint::Forward => libc::NF_INET_FORWARD,
        HookPoint::Output => libc::NF_INET_LOCAL_OUT,
        HookPoint::Postrouting => libc::NF_INET_POST_ROUTING,
    };
    number as u32
}

fn key_type(key: KeyType) -> (u32, u32) {
    let protocol_port = TYPE_PROTOCOL << TYPE_BITS | TYPE_SERVICE;
    match key {
        KeyType::Address => (TYPE_ADDRESS, 4),
        KeyType::ProtocolPort => (protocol_port, 8),
        KeyType::Number => (TYPE_INTEGER, 4),
        KeyType::AddressProtocolPort => (TYPE_ADDRESS << (2 * TYPE_BITS) | protocol_port, 12),
    }
}

fn write_verdict(message: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Return => (libc::NFT_RETURN, None),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
    };
    message.nest(2, |m| {
        m.attribute_u32(1, code as u32);
        if let Some(chain) = chain {
            m.attribute_str(2, chain);
        }
    });
}

fn write_expression(message: &mut Message, expression: &Expression) {
    message.attribute_str(1, name_of(expression));
    message.nest(2, |m| write_parts(m, expression));
}

/// What the kernel calls it.
fn name_of(expression: &Expression) -> &'static str {
    match expression {
        Expression::Network { .. } | Expression::Transport { .. } => "payload",
        Expression::Meta { .. } | Expression::SetMark { .. } => "meta",
        Expression::Connection { .. } => "ct",
        Expression::AddressType { .. } => "fib",
        Expression::Compare { .. } => "cmp",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Load { .. } | Expression::Verdict(_) => "immediate",
        Expression::InSet { .. } | Expression::VerdictMap { .. } => "lookup",
        Expression::Random { .. } => "numgen",
        Expression::UpdateSet { .. } => "dynset",
        Expression::DestinationNat { .. } | Expression::SourceNat { .. } => "nat",
        Expression::Masquerade => "masq",
        Expression::RejectWithReset | Expression::RejectWithIcmp { .. } => "reject",
    }
}

fn write_parts(m: &mut Message, expression: &Expression) {
    let register = |number: &u32| REGISTER_0 + number;
    let value = |m: &mut Message, attribute: u16, bytes: &[u8]| m.nest(attribute, |m| m.attribute(1, bytes));
    match expression {
        Expression::Network { offset, len, to } => payload(m, libc::NFT_PAYLOAD_NETWORK_HEADER, *offset, *len, register(to)),
        Expression::Transport { offset, len, to } => payload(m, libc::NFT_PAYLOAD_TRANSPORT_HEADER, *offset, *len, register(to)),
        Expression::Meta { key, to } | Expression::Connection { key, to } => numbers(m, &[(1, register(to)), (2, *key)]),
        Expression::SetMark { from } => numbers(m, &[(2, libc::NFT_META_MARK as u32), (3, register(from))]),
        Expression::AddressType { of, to } => {
            let flags = if *of == FibAddress::Source { 1 } else { 2 };
            numbers(m, &[(1, register(to)), (2, FIB_RESULT_ADDRESS_TYPE), (3, flags)]);
        }
        Expression::Compare { register: from, equal, bytes } => {
            let operator = if *equal { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
            numbers(m, &[(1, register(from)), (2, operator as u32)]);
            value(m, 3, bytes);
        }
        Expression::Bitwise { register: with, mask, xor } => {
            numbers(m, &[(1, register(with)), (2, register(with)), (3, 4)]);
            value(m, 4, mask);
            value(m, 5, xor);
        }
        Expression::Load { register: to, bytes } => {
            m.attribute_u32(1, register(to));
            value(m, 2, bytes);
        }
        Expression::InSet { set, key } => {
            m.attribute_str(1, set);
            m.attribute_u32(2, register(key));
        }
        Expression::VerdictMap { map, key } => {
            m.attribute_str(1, map);
            numbers(m, &[(2, register(key)), (3, libc::NFT_REG_VERDICT as u32)]);
        }
        Expression::Random { modulus, to } => numbers(m, &[(1, register(to)), (2, *modulus), (3, libc::NFT_NG_RANDOM as u32), (4, 0)]),
        Expression::UpdateSet { set, key } => {
            m.attribute_str(1, set);
            numbers(m, &[(3, libc::NFT_DYNSET_OP_UPDATE as u32), (4, register(key))]);
        }
        Expression::DestinationNat { address, port } => {
            nat(m, libc::NFT_NAT_DNAT, register(address));
            m.attribute_u32(5, register(port));
        }
        Expression::SourceNat { address } => {
            nat(m, libc::NFT_NAT_SNAT, register(address));
            m.attribute_u32(7, FULLY_RANDOM);
        }
        Expression::Masquerade => m.attribute_u32(1, FULLY_RANDOM),
        Expression::RejectWithReset => reject(m, libc::NFT_REJECT_TCP_RST, 0),
        Expression::RejectWithIcmp { code } => reject(m, libc::NFT_REJECT_ICMP_UNREACH, *code),
        Expression::Verdict(verdict) => {
            m.attribute_u32(1, libc::NFT_REG_VERDICT as u32);
            m.nest(2, |m| write_verdict(m, verdict));
        }
    }
}

fn reject(message: &mut Message, kind: libc::c_int, code: u8) {
    message.attribute_u32(1, kind as u32);
    message.attribute_u8(2, code);
}

const FIB_RESULT_ADDRESS_TYPE: u32 = 3;

fn numbers(message: &mut Message, numbers: &[(u16, u32)]) {
    for (attribute, number) in numbers {
        message.attribute_u32(*attribute, *number);
    }
}

fn payload(message: &mut Message, base: libc::c_int, offset: u32, len: u32, to: u32) {
    numbers(message, &[(1, to), (2, base as u32), (3, offset), (4, len)]);
}

fn nat(message: &mut Message, kind: libc::c_int, address: u32) {
    numbers(message, &[(1, kind as u32), (2, libc::NFPROTO_IPV4 as u32), (3, address)]);
}
